"""The server's evaluation as feedback to a strategy that asks for it."""

from collections.abc import Callable
from dataclasses import replace

from fedloom.core.types import Metrics, Params, RoundReport, State
from fedloom.strategies.contract import check_metrics, check_model, check_state, hook, named

__all__ = ["judged"]


def judged(
    strategy: object, state: State, report: RoundReport, judge: Callable[[Params], Metrics]
) -> tuple[State, RoundReport]:
    """A round's state and report once its strategy knows how well its candidates do.

    Args:
        strategy: of the stage; one that is not `fedloom.strategies.base.Judged` changes nothing.
        state: the state after the round.
        report: what happened in it.
        judge: evaluates one model.

    Raises:
        StrategyError: the strategy raised or broke its contract.
    """
    asked, told = (getattr(strategy, name, None) for name in ("candidates", "told"))
    if asked is None or told is None:
        return state, report
    layout, number = state.params.layout, report.round
    with hook("candidates", number):
        candidates = named(asked(state), "models")
    if not candidates:
        return state, report
    for name, params in candidates.items():
        check_model(params, layout, f"candidates, round {number}: {name!r}")
    found = {name: judge(params) for name, params in candidates.items()}
    with hook("told", number):
        after, metrics = told(state, found)
    where = f"told, round {number}"
    after = check_state(after, layout, state.version, where)
    return after, replace(report, metrics={**report.metrics, **check_metrics(metrics, where)})
