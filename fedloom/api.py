"""`fedloom.simulate`: a run from Python, with the same words as a configuration file."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom.grid import Grid
from fedloom.sources import Source, job_of, plain, table_of

if TYPE_CHECKING:
    from fedloom.results.observe import Observer
    from fedloom.simulation.simulator import Run
    from fedloom.sweeping import Outcome

__all__ = ["simulate", "sweep"]


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
    from fedloom.progress import Quiet
    from fedloom.sweeping import run_grid

    values = {key: [plain(value) for value in some] for key, some in grid.items()}
    combinations = Grid(table_of(config), values, dict(settings or {}))
    return run_grid(combinations, Path(out), lambda *_: Quiet(), lambda *_: None)


def _watched_by(observer: "Observer | None") -> "AbstractContextManager[Observer]":
    from fedloom.progress import progress

    return progress() if observer is None else nullcontext(observer)
