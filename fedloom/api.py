"""`fedloom.simulate`: a run from Python, with the same words as a configuration file."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedloom.core.config import merge, read_toml, to_table
from fedloom.core.errors import ConfigError, nearest
from fedloom.core.job import STAGE_KEYS, Job, job_from
from fedloom.core.registry import Component
from fedloom.given import with_objects

if TYPE_CHECKING:
    from fedloom.results.observe import Observer
    from fedloom.simulation.simulator import Run
    from fedloom.sweeping import Outcome

__all__ = ["Source", "job_of", "recipes", "simulate", "sweep", "table_of"]

Source: TypeAlias = "str | Path | Mapping[str, Any] | Job | None"


def simulate(
    config: Source = None,
    *,
    data: object = None,
    settings: Mapping[str, object] | None = None,
    observer: "Observer | None" = None,
    resume: bool = False,
    overwrite: bool = False,
    **keys: object,
) -> "Run":
    """Simulate a federated fine-tuning job and return its model, history and summary.

    ```python
    run = fedloom.simulate(
        data="reviews.jsonl",
        partition={"name": "dirichlet", "alpha": 0.5, "clients": 100},
        rounds=20,
        settings={"local.lr": 0.05},
    )
    run.history["evaluation.accuracy"]
    ```

    Args:
        config: a TOML file, the name of a recipe, a table as TOML gives it, or a job; None for the
            defaults.
        data: a data file, short for ``settings={"data.path": ...}``; or the rows themselves: an
            iterable of mappings, a mapping of columns, a data frame, or a function that gives one.
        settings: values by dotted key, such as ``{"local.lr": 0.05}``; they win over `config`.
        observer: who watches; None for the same progress as on the command line.
        resume: go on from the last checkpoint, where there is one.
        overwrite: delete what an earlier run left in the folder.
        **keys: top-level keys of the configuration; tables as dictionaries. ``strategy`` may be an
            object too: a strategy of one's own, or one of Flower's.

    Raises:
        FedloomError: a setting, file or model that cannot be used; the message says which and why.
    """
    from fedloom.simulation.simulator import simulate as run_simulation

    changes = {**keys, **(settings or {})}
    if isinstance(data, str | Path):
        changes, data = {**changes, "data.path": data}, None
    job = job_of(config, changes)
    with _watched_by(observer) as watcher:
        return run_simulation(job, observer=watcher, resume=resume, overwrite=overwrite, data=data)


def sweep(
    config: Source = None,
    *,
    grid: Mapping[str, Sequence[object]],
    settings: Mapping[str, object] | None = None,
    out: str | Path = "sweep",
) -> "list[Outcome]":
    """Simulate every combination of some values, one after the other; what has finished is kept.

    ```python
    fedloom.sweep("job.toml", grid={"adapter.name": ["lora", "bitfit"], "seed": [0, 1, 2]})
    ```

    Args:
        config: as in `simulate`.
        grid: lists of values by dotted key.
        settings: values by dotted key that all of them share.
        out: folder of the runs' folders.

    Raises:
        ConfigError: the configuration cannot be read; a combination that cannot run says so in its
            own outcome.
    """
    from fedloom.grid import Grid
    from fedloom.progress import Quiet
    from fedloom.sweeping import run_grid

    values = {key: [_plain(value) for value in some] for key, some in grid.items()}
    combinations = Grid(table_of(config), values, dict(settings or {}))
    return run_grid(combinations, Path(out), lambda *_: Quiet(), lambda *_: None)


def _watched_by(observer: "Observer | None") -> "AbstractContextManager[Observer]":
    from fedloom.progress import progress

    return progress() if observer is None else nullcontext(observer)


def job_of(source: Source, changes: Mapping[str, object] | None = None) -> Job:
    """The job that a source describes, with changes laid over it.

    Args:
        source: see `simulate`.
        changes: values by dotted key. A relative path of data among them starts at the current
            folder; in a file it starts at the file's folder.

    Raises:
        ConfigError: there is no such file or recipe, or a key or value is not allowed.
    """
    table = table_of(source)
    above: dict[str, Any] = {}
    for path, value in with_objects(changes or {}).items():
        above = merge(above, _nested(path, _plain(value)))
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


def _plain(value: object) -> Any:
    """Python values as TOML would give them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
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
