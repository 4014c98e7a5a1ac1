"""One line for what somebody else's code raised: kind, message, and the line of theirs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.raised import place_of, told

LINES = """
import json, numpy

def own():
    raise RuntimeError("first\\n\\n  second")

def pythons():
    return json.loads("{")

def numpys():
    return numpy.linalg.inv(numpy.zeros((2, 2)))

def silent():
    raise ValueError
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of somebody else's, in the current folder."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("theirs.strategy")
    exec(compile(LINES, str(tmp_path / "strategy.py"), "exec"), vars(module))
    return module


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        # From here on down, as where fedloom calls a strategy.
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("own", "raised RuntimeError: first second (strategy.py:5)"),
        ("silent", "raised ValueError (strategy.py:14)"),
        ("numpys", "raised LinAlgError: Singular matrix (strategy.py:11)"),
    ],
)
def test_the_last_line_of_theirs_is_named(theirs: ModuleType, call: str, text: str) -> None:
    assert told(raised(getattr(theirs, call))) == text


def test_pythons_own_modules_are_passed_over(theirs: ModuleType) -> None:
    assert place_of(raised(theirs.pythons)) == "strategy.py:8"


def test_what_only_this_package_ran_has_no_place() -> None:
    layout = Layout((TensorSpec("a", (2,)),))
    error = raised(lambda: layout.select(("b",)))
    error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    assert place_of(error) == ""
    assert place_of(None) == ""
