"""TOML text into frozen dataclasses, strictly: every mistake names its key and what is allowed.

A job is written once, in TOML; the dataclasses in `core.job` are its schema. Nothing else in
fedloom reads TOML: constructors take plain arguments.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, nearest

__all__ = ["build", "convert", "merge", "override", "read_toml", "to_table"]

Table = Mapping[str, Any]
T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or malformed; the message gives the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = f"{path}: no such file; `fedloom init {path.name}` writes a commented one"
        raise ConfigError(text) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def override(table: Table, assignments: Iterable[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` assignments; a value is TOML, or else a plain string.

    >>> override({"local": {"lr": 0.1}}, ["local.lr=0.5", "strategy=fedadam"])
    {'local': {'lr': 0.5}, 'strategy': 'fedadam'}

    Raises:
        ConfigError: an assignment has no ``=``.
    """
    out = dict(table)
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {text!r}: expected key=value, such as local.lr=0.05")
        out = merge(out, _nest(path.strip().split("."), _value(value.strip())))
    return out


def merge(below: Table, above: Table) -> dict[str, Any]:
    """`below` with the keys of `above` laid over it, table by table.

    A string over a table that names a component replaces its name and drops its options, and so
    does a table with another name. A backbone is no component: its other keys say how examples are
    read, and stay.
    """
    out = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), str):
            out[key] = {"name": out[key]}
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            same = value.get("name", out[key].get("name")) == out[key].get("name")
            out[key] = merge(out[key], value) if same or key == "backbone" else dict(value)
        else:
            out[key] = value
    return out


def _nest(path: list[str], value: object) -> dict[str, Any]:
    head, *rest = path
    return {head: _nest(rest, value) if rest else value}


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def build(cls: type[T], table: object, where: str = "") -> T:
    """Make a frozen dataclass from a table, checking every key and type.

    Raises:
        ConfigError: a key is unknown (the message names the known ones and the nearest), a value
            is of another type, or the dataclass itself refuses it.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where or cls.__name__} = {table!r}: expected a table")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    values: dict[str, Any] = {}
    for key, value in table.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            raise ConfigError(f"{path}: unknown key; {nearest(key, fields)}")
        values[key] = convert(hints[key], value, path)
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}.{name}: missing; it has no default".lstrip("."))
    return cls(**values)


def convert(hint: Any, value: object, path: str) -> object:
    """`value` as the annotated type `hint`.

    Raises:
        ConfigError: it is of another type; the message begins with `path`.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Component:
        return _component(value, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, path)
    if origin is tuple:
        return _sequence(args, value, path)
    if origin in (typing.Union, types.UnionType):
        return convert(next(a for a in args if a is not type(None)), value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{path} = {value!r}: expected {_WORDS.get(hint, hint)}")


_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _sequence(args: tuple[Any, ...], value: object, path: str) -> tuple[object, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ConfigError(f"{path} = {value!r}: expected a list")
    if args[-1] is not ... and len(items) != len(args):
        raise ConfigError(f"{path} = {value!r}: expected {len(args)} values")
    kinds = [args[0]] * len(items) if args[-1] is ... else args
    pairs = enumerate(zip(kinds, items, strict=True))
    return tuple(convert(kind, item, f"{path}[{i}]") for i, (kind, item) in pairs)


def _component(value: object, path: str) -> Component:
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        return Component(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{path} = {value!r}: expected a name, or a table with a name")
    return Component(value["name"], {k: _option(v) for k, v in value.items() if k != "name"})


def _option(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _option(item) for key, item in value.items()}
    return tuple(_option(item) for item in value) if isinstance(value, list) else value


def to_table(value: object) -> Any:
    """A dataclass as plain TOML/JSON values: the inverse of `build`."""
    if isinstance(value, Component):
        return {
            "name": value.name,
            **{k: to_table(v) for k, v in value.options.items()},
        }
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_table(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_table(item) for item in value]
    return value
