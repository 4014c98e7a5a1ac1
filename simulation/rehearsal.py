"""The first `configure` of each stage, tried out before anything of a run is written.

What a strategy refuses then, it would refuse once the stages before it are done.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import cast

from fedloom.core.errors import ConfigError, StrategyError
from fedloom.core.job import Stage
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.core.types import ClientId, ClientTask, Cohort, Params
from fedloom.simulation.setup import Prepared
from fedloom.strategies.base import Strategy
from fedloom.strategies.contract import check_ranks, first_state, tasks_of
from fedloom.strategies.ways import check_ways

__all__ = ["rehearse"]


def rehearse(prepared: Prepared) -> None:
    """Find a stage that cannot begin: a cohort too small for its rule, tasks that cannot be done.

    A strategy that a program gave as an object is left alone: it may count its calls.

    Raises:
        StrategyError: there is one; the message names the hook and the round.
    """
    job, first = prepared.job, 1
    params = prepared.model.initial(job.seed)
    for index, stage in enumerate(job.stages):
        if stage.strategy.made is None:
            cohort = _cohort(prepared, stage, first)
            tasks = _asked(cast(Strategy, create("strategies", stage.strategy)), params, cohort)
            codec = create("codecs", job.up(index))
            _check_parts(tasks.values(), stage, codec, params.layout)
        first += stage.rounds


def _cohort(prepared: Prepared, stage: Stage, number: int) -> Cohort:
    drawn = prepared.population.cohort(
        number, stage.clients_per_round, work=stage.local, selectors=stage.selectors
    )
    cuts = None if prepared.split is None else prepared.split.table
    return replace(drawn, tiers=prepared.job.tiers, cuts=cuts, rounds=stage.rounds)


def _asked(strategy: Strategy, params: Params, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
    tasks = tasks_of(strategy, first_state(strategy, params), cohort)
    check_ranks(strategy, tasks.values(), params.layout, cohort.round)
    check_ways(tasks.values(), cohort.round)
    return tasks


def _check_parts(
    tasks: Collection[ClientTask], stage: Stage, codec: object, layout: Layout
) -> None:
    """Find a task that sends less than the stage does, and so little that the codec drops it."""
    check = getattr(codec, "check", None)
    parts = {task.selectors: task for task in tasks if task.codec is None}
    parts.pop(stage.selectors, None)
    for selectors, task in parts.items() if check is not None else ():
        try:
            cast(Callable[[Layout], None], check)(selectors.sent(layout))
        except ConfigError as error:
            where = f"configure, round {task.round}: what {task.client!r} is to send"
            raise StrategyError(f"{where}: {error}") from error
