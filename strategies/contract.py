"""What a strategy's answers must satisfy, whoever wrote it; checked in every round."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from fedloom.core.errors import (
    ConfigError,
    LayoutError,
    StrategyError,
    UpdateRefusedError,
)
from fedloom.core.layout import Layout
from fedloom.core.ranks import largest_rank
from fedloom.core.types import (
    BRIEFING_TYPES,
    Briefing,
    ClientId,
    ClientTask,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import Strategy

__all__ = [
    "branches_of",
    "briefing_of",
    "check_applied",
    "check_branches",
    "check_ranks",
    "check_state",
    "check_tasks",
    "first_state",
    "hook",
]


@contextmanager
def hook(name: str, round: int) -> Iterator[None]:
    """Turn whatever a strategy raises into a `StrategyError` that names the hook and the round.

    The one error that passes is `UpdateRefusedError` from ``accumulate``: the strategy refuses an
    update, which is its right.
    """
    try:
        yield
    except Exception as error:
        if name == "accumulate" and isinstance(error, UpdateRefusedError):
            raise
        # A setting that cannot be says by itself what is wrong; of other errors the kind helps.
        kind = "" if isinstance(error, ConfigError) else f"raised {type(error).__name__}: "
        text = f"{name}, round {round}: {kind}{error}"
        raise StrategyError(text) from error


def first_state(strategy: Strategy, params: Params) -> State:
    """A strategy's state before the first round of a stage.

    Raises:
        StrategyError: it raised, or gave anything but a finite state of this model, version 0.
    """
    with hook("init", 0):
        state = strategy.init(params)
    return check_state(state, params.layout, 0, "init, round 0")


def briefing_of(strategy: object, state: State) -> Briefing:
    """What a strategy sends beside the model; nothing where it has no such hook.

    Raises:
        StrategyError: it raised, or gave anything but arrays of numbers by name.
    """
    asked = getattr(strategy, "briefing", None)
    if asked is None:
        return {}
    with hook("briefing", state.version + 1):
        briefing = asked(state)
        for name, array in briefing.items():
            if not isinstance(array, np.ndarray) or array.dtype.name not in BRIEFING_TYPES:
                raise TypeError(f"{name!r} is {_kind(array)}; arrays of {BRIEFING_TYPES}")
    return dict(briefing)


def branches_of(strategy: object, state: State) -> Mapping[str, Params]:
    """The models beside the global one that clients start from; none without such a hook.

    Raises:
        StrategyError: it raised, or gave anything but finite parts of the model by name.
    """
    asked = getattr(strategy, "branches", None)
    if asked is None:
        return {}
    with hook("branches", state.version + 1):
        branches = dict(asked(state))
        for name, params in branches.items():
            if not name:
                raise ValueError("a branch without a name; that is the model itself")
            state.params.layout.spans(params.layout)
            if not np.isfinite(params.vector).all():
                raise ValueError(f"{name!r} is not finite")
    return branches


def check_branches(tasks: Iterable[ClientTask], branches: Collection[str]) -> None:
    """Check that there is a model for every task to start from.

    Raises:
        ConfigError: a task names a branch that the strategy has not given.
    """
    lacking = {task.branch for task in tasks if task.branch}.difference(branches)
    if lacking:
        text = f"tasks start from {sorted(lacking)}; it has {sorted(branches)}"
        raise ConfigError(f"branch: {text}")


def check_ranks(strategy: object, tasks: Iterable[ClientTask], layout: Layout, round: int) -> None:
    """Check that clients are asked for ranks that the adapter has, of a strategy that takes them.

    Raises:
        StrategyError: they are not; nothing has been handed out.
    """
    where, most = f"configure, round {round}", largest_rank(layout)
    for task in tasks:
        if task.rank is None:
            continue
        if not 1 <= task.rank <= most:
            text = f"{task.client!r} is asked for rank {task.rank}; the adapter has 1 to {most}"
            raise StrategyError(f"{where}: {text}")
        if not getattr(strategy, "takes_ranks", False):
            text = f"{task.client!r} is asked for rank {task.rank}; the strategy takes whole ones"
            raise StrategyError(f"{where}: {text}")


def check_tasks(tasks: object, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
    """The answer of `Strategy.configure`, if it is tasks for members of the cohort.

    Raises:
        StrategyError: it is not; the message names the hook and the round.
    """
    where = f"configure, round {cohort.round}"
    if not isinstance(tasks, Mapping):
        raise StrategyError(f"{where}: returned {_kind(tasks)}; expected a mapping of tasks")
    members = {client.id for client in cohort.clients}
    for name, task in tasks.items():
        fault = _fault(name, task, members, cohort.round, state.version)
        if fault:
            raise StrategyError(f"{where}: {fault}")
    for selectors in {task.selectors for task in tasks.values()}:
        try:
            selectors.sent(state.params.layout)
        except LayoutError as error:
            raise StrategyError(f"{where}: {error}") from error
    return tasks


def _fault(name: str, task: object, members: set[str], round: int, version: int) -> str:
    """What is wrong with the task of the client `name`, or nothing."""
    if name not in members:
        return f"a task for {name!r}, who is not in the cohort"
    if not isinstance(task, ClientTask):
        return f"{_kind(task)} for {name!r}; expected a ClientTask"
    if task.client != name or task.round != round:
        return f"the task of {name!r} says client {task.client!r}, round {task.round}"
    if not 0 <= task.version <= version:
        return f"the task of {name!r} says version {task.version}; expected 0 to {version}"
    return ""


def check_applied(answer: object, state: State, round: int) -> tuple[State, Metrics]:
    """The answer of `Strategy.apply` to `state`, if it is the next state and metrics.

    Raises:
        StrategyError: it is not; the message names the hook and the round.
    """
    where = f"apply, round {round}"
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise StrategyError(f"{where}: returned {_kind(answer)}; expected a state and metrics")
    after, metrics = answer
    if not isinstance(metrics, Mapping):
        raise StrategyError(f"{where}: metrics are {_kind(metrics)}; expected a mapping of numbers")
    return check_state(after, state.params.layout, state.version + 1, where), metrics


def check_state(after: object, layout: Layout, version: int, where: str) -> State:
    """What a strategy returned, if it is a state of this layout and version, and finite.

    Raises:
        StrategyError: it is not; the message begins with `where`.
    """
    if not isinstance(after, State):
        raise StrategyError(f"{where}: returned {_kind(after)}; expected a State")
    if after.params.layout.digest != layout.digest:
        raise StrategyError(f"{where}: returned another layout than the model's")
    if after.version != version:
        raise StrategyError(f"{where}: returned version {after.version}; expected {version}")
    if not np.isfinite(after.params.vector).all():
        raise StrategyError(f"{where}: returned parameters that are not finite")
    return after


def _kind(value: object) -> str:
    return type(value).__name__
