"""A grid of jobs: a configuration, and lists of values by dotted key."""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from fedloom.core.config import merge, override
from fedloom.core.errors import ConfigError, nearest
from fedloom.sources import recipes, table_of

__all__ = ["Grid", "Settings", "asked", "folder_name", "grid_of", "short", "sweeps"]

Settings: TypeAlias = Mapping[str, Any]
"""Values by dotted key."""

MOST = 1000
"""Jobs in a sweep: a mistake in a list must not fill a disk."""


@dataclass(frozen=True)
class Grid:
    """Every combination of some values.

    Attributes:
        table: the configuration that all of them share, as TOML gives it.
        values: what each key takes, in order.
        fixed: changes to the configuration that all of them share, by dotted key.
        folder: where files that ``base`` names are looked for.
    """

    table: Settings
    values: Mapping[str, Sequence[Any]]
    fixed: Settings = field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError('sweep: nothing varies; [sweep] "local.lr" = [...] or --grid KEY=A,B')
        if len(self) > MOST:
            raise ConfigError(f"sweep: {len(self)} combinations; at most {MOST}")

    def __len__(self) -> int:
        total = 1
        for values in self.values.values():
            total *= len(values)
        return total

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The combinations; the last key changes fastest."""
        for values in itertools.product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))

    def under(self, settings: Settings) -> Settings:
        """The configuration below a combination: over its own ``base``, where that varies.

        Raises:
            ConfigError: there is no such file or recipe.
        """
        if "base" not in settings:
            return self.table
        below = _based(settings["base"], self.folder)
        below.pop("sweep", None)
        return merge(below, self.table)


def sweeps() -> dict[str, Path]:
    """The packaged sweeps by name."""
    folder = Path(__file__).parent / "sweeps"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def grid_of(source: str, assignments: Iterable[str] = (), lists: Iterable[str] = ()) -> Grid:
    """The grid that a configuration describes.

    Args:
        source: a TOML file with a ``[sweep]`` table, a packaged sweep, or a file or recipe without
            one; ``base`` in it names what it lies over (another one of them), or varies in
            ``[sweep]``.
        assignments: ``key=value`` for all jobs.
        lists: ``key=value,value``, beside ``[sweep]`` or in place of a key of it.

    Raises:
        ConfigError: there is no such file, or a list that is none.
    """
    table, folder = _read(source)
    if "base" in table:
        table = _based(table, folder)
    varied = table.pop("sweep", {})
    if not isinstance(varied, Mapping):
        raise ConfigError(f"sweep = {varied!r}: expected a table of lists by dotted key")
    values = {**dict(_flat(varied)), **dict(asked(text) for text in lists)}
    return Grid(table, values, override({}, assignments), folder)


def _based(base: object, folder: Path) -> dict[str, Any]:
    """What a file, recipe, sweep or table says, over the ``base`` that it names itself, if any."""
    if isinstance(base, str):
        path = folder / base
        table, folder = _read(str(path) if path.is_file() else base)
    elif isinstance(base, Mapping) and "base" in base:
        table = dict(base)
    else:
        text = "expected a file, the name of a recipe, or a table with a base of its own"
        raise ConfigError(f"base = {base!r}: {text}")
    if "base" not in table:
        return table
    return merge(_based(table.pop("base"), folder), table)


def _read(source: str) -> tuple[dict[str, Any], Path]:
    """What a source says, and the folder that it lies in."""
    path, known = Path(source), {**recipes(), **sweeps()}
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return table_of(path), path.parent
    if source not in known:
        raise ConfigError(f"{source}: no such file, sweep or recipe; {nearest(source, known)}")
    return table_of(known[source]), known[source].parent


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    for key, value in table.items():
        here = f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{here}.")
        elif isinstance(value, list) and value:
            yield here, value
        else:
            raise ConfigError(f"sweep.{here} = {value!r}: expected a list of values")


def asked(text: str) -> tuple[str, list[Any]]:
    """A key and its values, from the command line; each is TOML, or else a plain string.

    >>> asked("adapter.name=lora,bitfit"), asked("local.lr=0.1,0.2")
    (('adapter.name', ['lora', 'bitfit']), ('local.lr', [0.1, 0.2]))

    Raises:
        ConfigError: it has no ``=``, or no values.
    """
    key, equals, given = (part.strip() for part in text.partition("="))
    if not equals or not key or not given:
        raise ConfigError(f"--grid {text!r}: expected key=value,value, such as local.lr=0.1,0.2")
    try:
        values: list[Any] = tomllib.loads(f"v = [{given}]")["v"]
    except tomllib.TOMLDecodeError:
        values = [override({}, [f"v={one}"])["v"] for one in given.split(",")]
    return key, values


def short(value: object) -> str:
    """A value in a table or a folder's name: of a component its name and options.

    >>> short("lora"), short(0.5), short({"name": "lora", "rank": 4}), short(["a", "b"])
    ('lora', '0.5', 'lora rank=4', 'a+b')
    >>> short({"name": "no keeping", "base": "local-heads", "keep": []})
    'no keeping'
    """
    if isinstance(value, Mapping) and "base" in value:  # a configuration
        return str(value.get("name", value["base"]))
    if isinstance(value, Mapping):
        rest = (f"{key}={short(item)}" for key, item in value.items() if key != "name")
        return " ".join([*([str(value["name"])] if "name" in value else []), *rest])
    if isinstance(value, list | tuple):
        return "+".join(short(item) for item in value)
    return str(value)


def folder_name(settings: Settings) -> str:
    """A name for the run of a combination: the same for the same values, whatever else is run.

    >>> folder_name({"adapter.name": "lora", "seed": 1})
    'name=lora,seed=1-8a759101'
    """
    told = ",".join(f"{key.rpartition('.')[2]}={short(v)}" for key, v in settings.items())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.,=+_-]', '_', told)[:80]}-{digest}"
