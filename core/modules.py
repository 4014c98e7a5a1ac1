"""Modules by name: of what is installed, or a file in the current folder."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from fedloom.core.errors import ConfigError, UnknownNameError
from fedloom.core.raised import place_of, told

__all__ = ["imported", "module_of"]


def module_of(module_name: str, where: str) -> ModuleType:
    """The module of a name, imported; it may be a file in the current folder.

    Args:
        module_name: as Python has it.
        where: what messages begin with.

    Raises:
        UnknownNameError: there is no such module, or it imports one that there is not.
        ConfigError: it raised when it was imported, and is none of this package.
    """
    if _is_importable(module_name):
        return imported(module_name, where)
    path = Path.cwd() / (module_name.replace(".", "/") + ".py")
    if not path.is_file():
        raise UnknownNameError(f"{where}: no module {module_name!r}, and no file {path.name} here")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"{where}: cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]  # half a module must not be found the next time
        if isinstance(error, Exception):
            raise ConfigError(f"{where}: {told(error)}") from error
        raise
    return module


def imported(module_name: str, where: str) -> ModuleType:
    """The module of a name that Python finds, imported; as `module_of`."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        place = place_of(error)
        text = f"cannot import {module_name!r}: {error}" + (f" ({place})" if place else "")
        raise UnknownNameError(f"{where}: {text}") from None
    except Exception as error:
        if module_name.partition(".")[0] == "fedloom":
            raise  # a defect, and no mistake of the user's
        raise ConfigError(f"{where}: {told(error)}") from error


def _is_importable(module_name: str) -> bool:
    top = module_name.partition(".")[0]
    if module_name in sys.modules or top in sys.modules:
        return True
    return bool(top) and importlib.util.find_spec(top) is not None
