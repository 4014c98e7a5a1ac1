"""What a strategy's answers must satisfy, whoever wrote it; checked in every round."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from fedloom.core.errors import (
    ConfigError,
    LayoutError,
    StrategyError,
    UpdateRefusedError,
)
from fedloom.core.layout import Layout
from fedloom.core.raised import told
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
from fedloom.strategies.keepable import not_numbers, unkept

__all__ = [
    "branches_of",
    "briefing_of",
    "check_applied",
    "check_branches",
    "check_metrics",
    "check_model",
    "check_ranks",
    "check_state",
    "check_tasks",
    "first_state",
    "hook",
    "named",
    "tasks_of",
    "unwritten",
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
        # What says by itself what is wrong needs no more; of other errors kind and line help.
        text = str(error) if isinstance(error, ConfigError | StrategyError) else told(error)
        raise StrategyError(f"{name}, round {round}: {text}") from error


@contextmanager
def unwritten(state: State) -> Iterator[None]:
    """Keep a state's arrays from being written to, as a hook is given it to read only."""
    arrays = [a for a in (state.params.vector, *state.slots.values()) if a.flags.writeable]
    for array in arrays:
        array.flags.writeable = False
    try:
        yield
    finally:
        for array in sorted(arrays, key=lambda array: array.base is not None):  # owners, then views
            array.flags.writeable = True


def named(answer: object, what: str) -> dict[str, Any]:
    """What a hook returned, if it is a mapping.

    Raises:
        StrategyError: it is not.
    """
    if not isinstance(answer, Mapping):
        raise StrategyError(f"returned {_kind(answer)}; expected {what} by name")
    return dict(answer)


def tasks_of(strategy: Strategy, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
    """What a strategy asks of a cohort, by client; the state is given to it to read only.

    Raises:
        StrategyError: it raised, or what it returned is not that (`check_tasks`).
    """
    with hook("configure", cohort.round), unwritten(state):
        planned = strategy.configure(state, cohort)
    return check_tasks(planned, state, cohort)


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
        briefing = named(asked(state), "arrays")
        for name, array in briefing.items():
            if not isinstance(array, np.ndarray) or array.dtype.name not in BRIEFING_TYPES:
                raise TypeError(f"{name!r} is {_kind(array)}; arrays of {BRIEFING_TYPES}")
    return briefing


def branches_of(strategy: object, state: State) -> Mapping[str, Params]:
    """The models beside the global one that clients start from; none without such a hook.

    Raises:
        StrategyError: it raised, or gave anything but finite parts of the model by name.
    """
    asked = getattr(strategy, "branches", None)
    if asked is None:
        return {}
    with hook("branches", state.version + 1):
        branches = named(asked(state), "models")
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
        StrategyError: a task names a branch that the strategy has not given.
    """
    for task in tasks:
        if task.branch and task.branch not in branches:
            text = f"branch {task.branch!r} of {task.client!r}: it has given {sorted(branches)}"
            raise StrategyError(f"configure, round {task.round}: {text}")


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
    state = check_state(after, state.params.layout, state.version + 1, where)
    return state, check_metrics(metrics, where)


def check_metrics(metrics: object, where: str) -> Metrics:
    """What a strategy has measured, if it is numbers by name.

    Raises:
        StrategyError: it is not; the message begins with `where`.
    """
    fault = not_numbers(metrics)
    if fault:
        raise StrategyError(f"{where}: {fault}")
    return {name: float(value) for name, value in cast(Metrics, metrics).items()}


def check_state(after: object, layout: Layout, version: int, where: str) -> State:
    """What a strategy returned, if it is a finite state of this layout and version, and savable.

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
    fault = unkept(after)
    if fault:
        raise StrategyError(f"{where}: {fault}")
    return after


def check_model(params: object, layout: Layout, where: str) -> Params:
    """A model that a strategy asks about, if it is finite and whole.

    Raises:
        StrategyError: it is not; the message begins with `where`.
    """
    if not isinstance(params, Params):
        raise StrategyError(f"{where}: {_kind(params)}; expected Params")
    if params.layout.digest != layout.digest:
        raise StrategyError(f"{where}: of another layout than the model's")
    if not np.isfinite(params.vector).all():
        raise StrategyError(f"{where}: not finite")
    return params


def _kind(value: object) -> str:
    return type(value).__name__
