"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import fedloom

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fedloom.__path__, "fedloom.")
    if not module.name.endswith(
        (".__main__", "._native", "._fixed_point", "._order")
    )  # that is a library of C
)


def imported(name: str) -> ModuleType:
    """The module; a test of one that needs an extra is skipped where the extra is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "fedloom").partition(".")[0] == "fedloom":
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(imported(name)).failed == 0
