"""One round: the same function for a live federation, a simulation, and a test.

Only `dispatch` differs: it hands tasks out and yields updates as they come.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

from fedloom.core.errors import UpdateRefusedError
from fedloom.core.types import (
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Refusal,
    RoundReport,
    State,
)
from fedloom.server.admission import Admission, Decode
from fedloom.server.remembered import NOTHING, Remembered
from fedloom.server.tally import Tally
from fedloom.strategies.base import Strategy
from fedloom.strategies.contract import check_applied, check_ranks, hook, tasks_of, unwritten
from fedloom.strategies.remembering import folded
from fedloom.strategies.ways import check_ways

__all__ = ["Decode", "Dispatch", "run_round"]

Dispatch: TypeAlias = Callable[
    [Mapping[ClientId, ClientTask]], AsyncIterator[ClientUpdate | Refusal]
]


async def run_round(
    strategy: Strategy,
    state: State,
    cohort: Cohort,
    dispatch: Dispatch,
    *,
    decode: Decode,
    kept: Remembered = NOTHING,
) -> tuple[State, RoundReport]:
    """Hand out the work of one round and fold what comes back into the next state.

    An update that cannot be used is refused with a reason, and the round goes on without it. One
    update is held at a time; beyond that, memory grows by a few numbers for each client.

    Args:
        strategy: the federated algorithm.
        state: the state before the round; never written to.
        cohort: who was picked.
        dispatch: hands tasks out and yields updates in any order, or a refusal in place of one
            that it did not let in.
        decode: a payload, and the layout of what its client was asked to send, into a delta.
        kept: what is remembered of each client.

    Returns:
        The next state, and what happened.

    Raises:
        StrategyError: the strategy raised or broke its contract; the message names the hook and
            the round. Nothing is lost: `state` is as it was.
    """
    number, memory = cohort.round, kept.memory
    asked = tasks_of(strategy, state, cohort)
    kept.begin(number)
    tasks = kept.limited(asked)
    check_ranks(strategy, tasks.values(), state.params.layout, number)
    check_ways(tasks.values(), number)

    tally = Tally()
    admission = Admission(tasks, state.params.layout, decode, prunes=kept.pruned is not None)
    total: Any | None = None
    async for update in dispatch(tasks):
        if isinstance(update, Refusal):
            tally.refuse(update.client, update.reason)
            continue
        tally.spend(update.cost)
        try:
            total = folded(strategy, state, total, admission.admit(update), memory)
        except UpdateRefusedError as error:
            tally.refuse(update.client, str(error))
        else:
            admission.close(update.client)
            tally.accept(update)
            kept.note(update)

    with hook("apply", number), unwritten(state):
        applied = strategy.apply(state, total)
    after, metrics = check_applied(applied, state, number)
    kept.commit(number)
    return after, tally.report(number, metrics)
