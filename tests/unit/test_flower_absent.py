"""What is Flower's is not imported by anything else, and says how to get it where it is missing."""

import subprocess
import sys

import pytest

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.registry import create


def test_fedloom_does_not_import_flower() -> None:
    code = (
        "import sys, fedloom, fedloom.cli, fedloom.strategies.fedavg; print('flwr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["FedAvg", "here:Own"])
def test_without_flower_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedloom\[flower\]'"):
        create("strategies", Component(f"flwr:{name}"))
