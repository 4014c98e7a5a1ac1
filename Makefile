# `make demo` and `make test` are all you need; each builds .venv on first use.
# On Linux without a GPU, PyTorch's CPU wheel saves about 3 GB: see "Installing" in the README.
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint arm64 clean help

help:  ## what there is to make
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/'

demo: .venv/ready  ## a federation of 1,455 clients, simulated on this machine
	$(BIN)/fedloom fetch minilm
	$(BIN)/fedloom simulate examples/demo.toml --overwrite

test: .venv/ready  ## every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/ready  ## what CI checks besides the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

export FEDLOOM_ARM64 ?= $(HOME)/.cache/fedloom/arm64
arm64: .venv/ready  ## nightly, as root: clients on emulated ARM processors, in that folder
	$(BIN)/python tests/arm64/make_root.py $(FEDLOOM_ARM64)
	FEDLOOM_KILLS=1 OMP_NUM_THREADS=1 nice -n 10 $(BIN)/pytest -s tests/arm64

clean:  ## remove the environment and what builds leave
	rm -rf .venv build dist *.egg-info

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -q 'pip>=25.1'
	$(PIP) install -q -c constraints.txt 'torch'
	$(PIP) install -q -c constraints.txt -e '.[all]' --group dev
	touch $@
