# `make demo` and `make test` are all you need; each builds .venv on first use.
# On Linux without a GPU, PyTorch's CPU wheel saves about 3 GB: see "Installing" in the README.
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# Flower's pins exclude releases in constraints.txt: it lies in environments beside .venv, the
# oldest release that is supported and the newest that installs.
FLOWER := 1.26.1 1.41.0
FLOWER_TESTS := $(wildcard tests/unit/test_flower_*.py tests/integration/test_flower_*.py)
FLOWER_OLDEST := conforms or ones_own or messages or comes_back or ships or apps or \
	flower_hosting or flower_mailbox or flower_recorded or flower_watching

.PHONY: demo test test-flower lint arm64 clean help

help:  ## what there is to make
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/'

demo: .venv/ready  ## a federation of 1,455 clients, simulated on this machine
	$(BIN)/fedloom fetch minilm
	$(BIN)/fedloom simulate examples/demo.toml --overwrite

test: .venv/ready test-flower  ## every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-flower: $(FLOWER:%=.venv-flower-%/ready)  ## what needs Flower, with two releases of it
	OMP_NUM_THREADS=1 .venv-flower-$(firstword $(FLOWER))/bin/python -m pytest -n 2 \
		-k '$(FLOWER_OLDEST)' $(FLOWER_TESTS)
	OMP_NUM_THREADS=1 .venv-flower-$(lastword $(FLOWER))/bin/python -m pytest -n 2 \
		--dist worksteal $(FLOWER_TESTS) tests/e2e/*flower*.py

lint: .venv/ready  ## what CI checks besides the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

arm64: export FEDLOOM_ARM64 ?= $(HOME)/.cache/fedloom/arm64
arm64: .venv/ready  ## nightly, as root: clients on emulated ARM processors, in that folder
	$(BIN)/python tests/arm64/make_root.py $(FEDLOOM_ARM64)
	FEDLOOM_KILLS=1 OMP_NUM_THREADS=1 nice -n 10 $(BIN)/pytest -s tests/arm64

clean:  ## remove the environment and what builds leave
	rm -rf .venv .venv-flower-* build dist *.egg-info

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -q 'pip>=25.1'
	$(PIP) install -q -c constraints.txt 'torch'
	$(PIP) install -q -c constraints.txt -e '.[all]' --group dev
	touch $@

# What .venv has is found there too, and only what Flower wants otherwise is installed beside it.
.venv-flower-%/ready: .venv/ready
	$(PYTHON) -m venv $(@D)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth
	$(@D)/bin/python -m pip --disable-pip-version-check install -q flwr==$*
	$(@D)/bin/python -c 'import flwr.serverapp.strategy, flwr.clientapp'
	touch $@
