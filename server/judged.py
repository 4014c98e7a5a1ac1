"""The server's evaluation as feedback to a strategy that asks for it."""

from collections.abc import Callable
from dataclasses import replace

from fedloom.core.types import Metrics, Params, RoundReport, State
from fedloom.strategies.contract import check_state, hook

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
    with hook("candidates", report.round):
        candidates = dict(asked(state))
    if not candidates:
        return state, report
    found = {name: judge(params) for name, params in candidates.items()}
    with hook("told", report.round):
        after, metrics = told(state, found)
    after = check_state(after, state.params.layout, state.version, f"told, round {report.round}")
    return after, replace(report, metrics={**report.metrics, **metrics})
