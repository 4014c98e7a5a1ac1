"""``fedloom new``: a package of one's own to begin with."""

import argparse
import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from fedloom.core.errors import ConfigError, require
from fedloom.core.registry import BUILT_IN, DIALECTS

__all__ = ["add_new", "write_strategy"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES = {
    "module": "{module}.py",
    "test": "test_{module}.py",
    "pyproject": "pyproject.toml",
    "readme": "README.md",
}


def add_new(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Write a package with a strategy that works, its entry point and a test that holds it to "
        "the contract of every strategy. docs/strategies.md teaches what to change."
    )
    parser.add_argument("kind", choices=["strategy"], metavar="strategy", help="what to write")
    hint = "its name in a job: lower case, digits and dashes, such as median-of-means"
    parser.add_argument("name", metavar="NAME", help=hint)
    hint = "folder to write it to (default: NAME in the current folder)"
    parser.add_argument("--out", metavar="DIR", help=hint)
    parser.set_defaults(command=_new)


def _new(options: argparse.Namespace) -> int:
    folder = Path(options.out or options.name)
    for path in write_strategy(options.name, folder):
        print(path)
    module = _module(options.name)
    print(f"\ntry it:  cd {folder} && pytest")
    print(f"run it:  fedloom simulate JOB.toml --set strategy={module}:{_title(module)}")
    return 0


def write_strategy(name: str, folder: Path) -> list[Path]:
    """Write the package of a strategy to a new folder; the files, in order.

    Args:
        name: what a job calls it.
        folder: that is made.

    Raises:
        ConfigError: the name is none, or taken by a built-in strategy or a module; the folder
            exists, or cannot be made.
    """
    text = "lower-case letters and digits, in words that a dash joins, beginning with a letter"
    require(_NAME.fullmatch(name) is not None, "name", name, text)
    taken = sorted(BUILT_IN["strategies"])
    require(name not in taken, "name", name, f"none of the built-in {', '.join(taken)}")
    module = _module(name)
    _check_module(name, module)
    words = {"name": name, "module": module, "title": _title(module)}
    source, written = files("fedloom.scaffold").joinpath("strategy"), []
    try:
        folder.mkdir(parents=True)
        for template, target in _FILES.items():
            path = folder / target.format(**words)
            content = source.joinpath(f"{template}.txt").read_text(encoding="utf-8")
            path.write_text(Template(content).substitute(words), encoding="utf-8")
            written.append(path)
    except FileExistsError:
        raise ConfigError(f"{folder}: exists; choose another --out or delete it first") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from None
    return written


def _check_module(name: str, module: str) -> None:
    """Refuse a name whose file could not be imported, or would hide what others import.

    Raises:
        ConfigError: it is one of Python's words, or a module that there is.
    """
    words = {module, _title(module)}
    require(not any(map(keyword.iskeyword, words)), "name", name, "no word of Python's own")
    spec = importlib.util.find_spec(module)
    there = (spec is not None and spec.origin is not None) or ("strategies", module) in DIALECTS
    require(not there, "name", name, f"another; there is a module {module!r} that it would hide")


def _module(name: str) -> str:
    return name.replace("-", "_")


def _title(module: str) -> str:
    return "".join(word.capitalize() for word in module.split("_"))
