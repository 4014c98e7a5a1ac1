"""Which tasks of a round train together: those that are alike, as many as memory holds."""

from collections.abc import Mapping

from fedloom.core.errors import ConfigError
from fedloom.core.types import ClientTask, Params
from fedloom.simulation.branches import Branch
from fedloom.simulation.federation import Federation
from fedloom.strategies.contract import check_branches
from fedloom.tuning.cohort import chunks, size_of
from fedloom.tuning.ranking import check_trains_ranks
from fedloom.tuning.split_training import SplitTraining

__all__ = ["chunked", "groups"]


def groups(
    federation: Federation, tasks: list[ClientTask], branches: Mapping[str, Branch]
) -> list[list[ClientTask]]:
    """Tasks that can share a chunk: the same start, numbers, tensors, rank, learner, and cut.

    Args:
        federation: who trains them.
        tasks: of a round.
        branches: of the model, by the name that a task starts from.

    Raises:
        ConfigError: a task asks for what its learner, or a split model, cannot do.
    """
    check_branches(tasks, branches)
    for task in tasks:
        if task.rank is not None:
            name = task.learner.name if task.learner else type(federation.learner).__name__
            check_trains_ranks(federation.learner_of(task), name)
    found = _alike(federation.split, tasks)
    if federation.split is not None and any(task.branch for task in tasks):
        raise ConfigError("branch: clients of a split model start from the same one")
    if federation.split is not None and any(task.blocks for task in tasks):
        raise ConfigError("blocks: clients of a split model run all of its layers")
    if len(found) > 1 and federation.split is not None and federation.split.shared:
        mode = federation.split.config.mode
        text = "its clients were asked for different work; v1 allows it"
        raise ConfigError(f"split.mode = {mode!r}: {text}")
    return found


def chunked(
    federation: Federation, tasks: list[ClientTask], params: Params
) -> list[list[ClientTask]]:
    """Tasks that can share a chunk in chunks that memory holds; each trains as one batch.

    Args:
        federation: who trains them.
        tasks: one of the `groups`.
        params: where they start.
    """
    if federation.split is not None and federation.split.shared:
        return [tasks]
    sizes, session = [], federation.session_for(tasks[0], params)
    copies = getattr(federation.learner_of(tasks[0]), "copies", 1)
    for task in tasks:
        rows = federation.rows_of(task.client)
        sizes.append(size_of(len(rows), session.tokens(rows), task.work))
    capacity = federation.capacity
    most, budget = max(capacity.clients // copies, 1), capacity.tokens // copies
    parts = chunks(sizes, most=most, budget=budget, split=capacity.chunks)
    return [[tasks[i] for i in part] for part in parts]


def _alike(split: SplitTraining | None, tasks: list[ClientTask]) -> list[list[ClientTask]]:
    found: dict[object, list[ClientTask]] = {}
    for task in tasks:
        way = repr((task.learner, task.codec))  # options need not be hashable
        cut = split.at(task.bottom).cut if split is not None else None
        start = task.branch, task.rank
        key = (start, task.work, task.selectors.train, task.blocks, way, cut)
        found.setdefault(key, []).append(task)
    return list(found.values())
