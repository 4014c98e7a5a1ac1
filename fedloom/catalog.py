"""What can be named in a configuration, read from the source without running it.

Importing a room to read a docstring would import torch; the text of the files is enough.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import UnknownNameError, nearest
from fedloom.core.registry import GROUPS, names
from fedloom.grid import sweeps
from fedloom.sources import recipes

__all__ = ["Entry", "groups", "listed"]

_BACKBONES = {
    "minilm": "all-MiniLM-L6-v2, a 22-million-parameter text encoder (BERT family)",
    "smollm2": "SmolLM2-135M, a small language model (Llama family)",
    "FOLDER": "a folder in transformers' format: config.json, *.safetensors, tokenizer.json",
    "OWNER/NAME": "a model of the hub, by its name there",
}
_NO_OPTIONS = {"self", "cls"}


@dataclass(frozen=True)
class Entry:
    """One name that a configuration may use.

    Attributes:
        name: as it is written.
        text: one line on what it is; empty where its source cannot be read.
        options: what it takes besides its name, with defaults, as written in the source.
    """

    name: str
    text: str = ""
    options: tuple[str, ...] = ()


def groups() -> tuple[str, ...]:
    """The groups that `listed` knows."""
    return (*GROUPS, "backbones", "recipes", "sweeps")


def listed(group: str) -> list[Entry]:
    """Every name of a group.

    Raises:
        UnknownNameError: there is no such group.
    """
    if group == "backbones":
        return [Entry(name, text) for name, text in _BACKBONES.items()]
    if group == "recipes":
        return [Entry(name, _first_comment(path)) for name, path in recipes().items()]
    if group == "sweeps":
        return [Entry(name, _first_comment(path)) for name, path in sweeps().items()]
    if group not in GROUPS:
        raise UnknownNameError(f"group {group!r}: {nearest(group, groups())}")
    return [_entry(name, target) for name, target in sorted(names(group).items())]


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _entry(name: str, target: str) -> Entry:
    module, _, attribute = target.partition(":")
    path = _source(module)
    if path is None:
        return Entry(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    found = (node for node in tree.body if isinstance(node, kinds) and node.name == attribute)
    node = next(found, None)
    if node is None:
        return Entry(name)
    text = (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return Entry(name, text, tuple(_options(node)))


def _source(module: str) -> Path | None:
    """The file of a module, found without importing it or the packages it lies in."""
    first, *rest = module.split(".")
    if first == "fedloom" and rest:  # a room may lie beside fedloom/ and be mapped into it
        first, rest = f"fedloom.{rest[0]}", rest[1:]
    spec = importlib.util.find_spec(first)
    if spec is None:
        return None
    folders = [Path(folder).joinpath(*rest) for folder in spec.submodule_search_locations or ()]
    files = [folder.with_suffix(".py") for folder in folders if rest]
    files += [folder / "__init__.py" for folder in folders]
    files += [Path(spec.origin)] if spec.origin and not rest else []
    return next((path for path in files if path.is_file()), None)


def _options(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield from _arguments(node.args)
        return
    inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if inits:
        yield from _arguments(inits[0].args)
        return
    for field in node.body:  # a dataclass
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            name = field.target.id
            hidden = name.startswith("_") or name == "name"  # ``name`` chooses the object itself
            yield from () if hidden else (_with_default(name, field.value),)


def _arguments(arguments: ast.arguments) -> Iterable[str]:
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    pairs = [*zip(plain, [*missing, *arguments.defaults], strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [_with_default(a.arg, value) for a, value in pairs if a.arg not in _NO_OPTIONS]


def _with_default(name: str, value: ast.expr | None) -> str:
    return name if value is None else f"{name}={ast.unparse(value)}"
