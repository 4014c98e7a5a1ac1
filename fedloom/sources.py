"""What a job is described by: a file, a recipe, a table or a job, with changes laid over it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from fedloom.core.config import merge, read_toml, to_table
from fedloom.core.errors import ConfigError, nearest
from fedloom.core.job import STAGE_KEYS, Job, job_from
from fedloom.core.registry import Component
from fedloom.given import with_objects

__all__ = ["Source", "job_of", "plain", "recipes", "table_of"]

Source: TypeAlias = "str | Path | Mapping[str, Any] | Job | None"
"""A TOML file, the name of a recipe, a table as TOML gives it, or a job; None for the defaults."""


def job_of(source: Source, changes: Mapping[str, object] | None = None) -> Job:
    """The job that a source describes, with changes laid over it.

    Args:
        source: see `Source`.
        changes: values by dotted key. A relative path of data among them starts at the current
            folder; in a file it starts at the file's folder.

    Raises:
        ConfigError: there is no such file or recipe, or a key or value is not allowed.
    """
    table = table_of(source)
    above: dict[str, Any] = {}
    for path, value in with_objects(changes or {}).items():
        above = merge(above, _nested(path, plain(value)))
    return job_from(_lay_over(table, _located(above, Path.cwd())))


def table_of(source: Source) -> dict[str, Any]:
    """What a source says, as TOML gives it, with paths of data that hold anywhere.

    Raises:
        ConfigError: there is no such file or recipe, or it is not TOML.
    """
    if source is None:
        return {}
    if isinstance(source, Job):
        table: dict[str, Any] = to_table(source)
        return table
    if isinstance(source, Mapping):
        return _located(source, Path.cwd())
    path = _file_of(source)
    return _located(read_toml(path), path.parent)


def _file_of(source: str | Path) -> Path:
    """A path as it is; a bare name that no file answers to is a recipe's."""
    path = Path(source)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path
    known = recipes()
    if str(source) not in known:
        text = f"{source}: no such file or recipe; {nearest(str(source), known)}"
        raise ConfigError(text)
    return known[str(source)]


def recipes() -> dict[str, Path]:
    """The packaged configurations by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _nested(path: str, value: object) -> dict[str, Any]:
    head, dot, rest = path.partition(".")
    return {head: _nested(rest, value) if dot else value}


def plain(value: object) -> Any:
    """Python values as TOML would give them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Component):
        return to_table(value) if value.made is None else value
    return str(value) if isinstance(value, Path) else value


_PATHS = (("data", "path"), ("backbone", "emulator", "text"))


def _located(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table with relative paths of data made absolute from `folder`."""
    out = dict(table)
    for keys in _PATHS:
        out = _placed(out, keys, folder)
    return out


def _placed(table: Mapping[str, Any], keys: Sequence[str], folder: Path) -> dict[str, Any]:
    head, *rest = keys
    value = table.get(head)
    if rest and isinstance(value, Mapping):
        return {**table, head: _placed(value, rest, folder)}
    if rest or not isinstance(value, str) or not value:
        return dict(table)
    return {**table, head: str((folder / Path(value).expanduser()).resolve())}


def _lay_over(table: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `table`; its stage keys also win over what each stage says for itself."""
    merged = merge(table, above)
    ours = {key: above[key] for key in STAGE_KEYS if key in above}
    if ours and isinstance(merged.get("stages"), list):
        stages = merged["stages"]
        merged["stages"] = [merge(s, ours) if isinstance(s, Mapping) else s for s in stages]
    return merged
