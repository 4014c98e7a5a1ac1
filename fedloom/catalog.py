"""What can be named in a configuration, read from the source without running it.

Importing a room to read a docstring would import torch; the text of the files is enough.
"""

import ast
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import UnknownNameError, nearest
from fedloom.core.registry import DIALECTS, GROUPS, find, names
from fedloom.grid import sweeps
from fedloom.sources import recipes

__all__ = ["Entry", "described", "groups", "listed"]

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
        typed: the same with types.
        about: all that its source says of it.
    """

    name: str
    text: str = ""
    options: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    about: str = ""


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


def described(group: str, name: str) -> Entry:
    """One name of a group, which may be a ``module:Name`` of one's own.

    Raises:
        UnknownNameError: there is no such group, or no such name in it.
    """
    known = {entry.name: entry for entry in listed(group)}
    if name in known:
        return known[name]
    if (group, name.partition(":")[0]) in DIALECTS:
        options = inspect.signature(find(group, name)).parameters.values()
        return Entry(name, typed=tuple(str(option) for option in options))
    module = name.partition(":")[0]
    if ":" not in name or group not in GROUPS or _source(module) is None:
        raise UnknownNameError(f"{group}: unknown name {name!r}; {nearest(name, known)}")
    return _entry(name, name)


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _entry(name: str, target: str) -> Entry:
    module, _, attribute = target.partition(":")
    path = _source(module)
    if path is None:
        return Entry(name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return Entry(name)
    kinds = ast.FunctionDef | ast.ClassDef
    found = (node for node in tree.body if isinstance(node, kinds) and node.name == attribute)
    node = next(found, None)
    if node is None:
        return Entry(name)
    about, options = ast.get_docstring(node) or "", list(_options(node, tree))
    text = about.partition("\n")[0].rstrip(".")
    plain = tuple(option.plain for option in options)
    return Entry(name, text, plain, tuple(option.typed for option in options), about)


def _source(module: str) -> Path | None:
    """The file of a module, found without importing it or the packages it lies in."""
    first, *rest = module.split(".")
    if first == "fedloom" and rest:  # a room may lie beside fedloom/ and be mapped into it
        first, rest = f"fedloom.{rest[0]}", rest[1:]
    spec = importlib.util.find_spec(first) if first else None
    if spec is None:
        here = Path.cwd().joinpath(first, *rest).with_suffix(".py") if first else Path()
        return here if here.is_file() else None
    folders = [Path(folder).joinpath(*rest) for folder in spec.submodule_search_locations or ()]
    files = [folder.with_suffix(".py") for folder in folders if rest]
    files += [folder / "__init__.py" for folder in folders]
    files += [Path(spec.origin)] if spec.origin and not rest else []
    return next((path for path in files if path.is_file()), None)


@dataclass(frozen=True)
class _Option:
    name: str
    type: ast.expr | None
    default: ast.expr | None

    @property
    def plain(self) -> str:
        return self.name + ("" if self.default is None else f"={ast.unparse(self.default)}")

    @property
    def typed(self) -> str:
        of = "" if self.type is None else f": {ast.unparse(self.type)}"
        return f"{self.name}{of}" + (
            "" if self.default is None else f" = {ast.unparse(self.default)}"
        )


def _options(node: ast.FunctionDef | ast.ClassDef, tree: ast.Module) -> Iterator[_Option]:
    if isinstance(node, ast.FunctionDef):
        yield from _arguments(node.args, tree)
        return
    inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if inits:
        yield from _arguments(inits[0].args, tree)
        return
    for field in node.body:  # a dataclass
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            name, kind = field.target.id, ast.unparse(field.annotation)
            # ``name`` chooses the object itself
            if not name.startswith("_") and name != "name" and "ClassVar" not in kind:
                yield _Option(name, field.annotation, _value(field.value, tree))


def _arguments(arguments: ast.arguments, tree: ast.Module) -> Iterable[_Option]:
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    pairs = [*zip(plain, [*missing, *arguments.defaults], strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [
        _Option(a.arg, a.annotation, _value(default, tree))
        for a, default in pairs
        if a.arg not in _NO_OPTIONS
    ]


def _value(default: ast.expr | None, tree: ast.Module) -> ast.expr | None:
    """A default as a configuration would have it: constants by value, components by name."""
    match default:
        case ast.Name(id=name):
            for node in tree.body:
                if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                    return _value(node.value, tree)
        case ast.Call(
            func=ast.Name(id="field"), keywords=[ast.keyword(value=ast.Lambda() as made)]
        ):
            return _value(made.body, tree)
        case ast.Call(func=ast.Name(id="Component"), args=[ast.Constant() as first]):
            return first
    return default
