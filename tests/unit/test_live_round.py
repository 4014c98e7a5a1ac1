import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from small_server import begin_round, frame_of, gate_of, models_of, offer_of, opened, take

from fedloom.core.config import build
from fedloom.core.errors import StrategyError
from fedloom.core.types import Client, ClientTask, ClientUpdate, Refusal, Selectors
from fedloom.server.board import GaveUp, Offer, Stopping
from fedloom.server.contents import Content
from fedloom.server.deadline import Deadline
from fedloom.server.federation import Federation
from fedloom.server.live_round import LiveRound, Stopped, TooFewError, order_of, pause
from fedloom.server.records import Ticket

NAMES = ["ann", "bob", "cy"]
TASKS = {name: ClientTask(name, 1, 0) for name in NAMES}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path) as found:
        yield found


def round_of(
    federation: Federation, *, goal: int = 3, minimum: int = 1, longest: float = 60.0
) -> LiveRound:
    found = federation.ledger.current()
    assert found is not None
    return LiveRound(
        found,
        0,
        models_of(),
        Deadline(asked=3, goal=goal, minimum=minimum, patience=60.0, longest=longest),
        lambda tasks: gate_of(list(tasks)),
        federation.board,
        federation.intake,
        federation.ledger,
        federation.live.segments,
    )


def play(round: LiveRound, tasks: Mapping[str, ClientTask] = TASKS) -> list[str]:
    """Who answered, in the order in which it was heard of; a refusal with its reason."""

    async def go() -> list[str]:
        found = []
        async for update in round(tasks):
            if isinstance(update, Refusal):
                found.append(f"{update.client}: {update.reason}")
            else:
                assert isinstance(update, ClientUpdate)
                found.append(update.client)
        return found

    return asyncio.run(go())


def test_it_is_over_when_everybody_has_answered_or_is_gone(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    round = round_of(federation)
    other = Ticket("x" * 32, 9, "ann")
    for event in (GaveUp(other, "of another round"), GaveUp(tickets["cy"], "no memory")):
        federation.board.events.put(event)
    for name in ("ann", "bob"):
        take(federation, tickets[name], frame_of(1.0))
    # what is in the ledger already comes first, then what is said
    assert play(round) == ["ann", "bob", "cy: no memory"]
    assert federation.intake.gate is None
    opened = federation.ledger.current()
    assert opened is not None
    assert opened.closed
    assert play(round_of(federation)) == ["ann", "bob"]  # as after a restart


def test_it_is_over_with_its_goal(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    for name in ("ann", "bob"):
        take(federation, tickets[name], frame_of(1.0))
    assert play(round_of(federation, goal=2)) == ["ann", "bob"]


def test_offers_are_out_while_it_lasts(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    take(federation, tickets["bob"], frame_of(1.0))
    round = round_of(federation, longest=0.0)
    seen = []

    def look(answered: int, gone: int) -> None:
        seen.append((answered, gone, federation.board.offered("ann")))

    round.deadline = Deadline(asked=3, goal=3, minimum=1, patience=60.0, longest=60.0)
    round.ticking = look
    federation.board.events.put(GaveUp(tickets["ann"], ""))
    federation.board.events.put(GaveUp(tickets["cy"], ""))
    assert play(round) == ["bob", "ann: ", "cy: "]
    answered, gone, offer = seen[0]
    assert (answered, gone) == (1, 0)
    assert offer is not None
    assert (offer.ticket, offer.max_bytes) == (tickets["ann"], 1000)
    assert offer.model == models_of().content.sha256
    assert offer.ends > time.monotonic()
    assert federation.board.offered("ann") is None


def test_too_few_leave_the_round_open_unless_it_is_the_last_try(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    take(federation, tickets["ann"], frame_of(1.0))
    round = round_of(federation, minimum=2, longest=0.0)
    with pytest.raises(TooFewError):
        play(round)
    opened = federation.ledger.current()
    assert opened is not None
    assert not opened.closed
    round.last = True
    assert play(round) == ["ann"]


def test_it_stops_when_told(federation: Federation) -> None:
    begin_round(federation, NAMES)
    federation.stop()
    with pytest.raises(Stopped):
        play(round_of(federation))
    assert federation.board.offered("ann") is None


def test_whom_to_ask_next(federation: Federation) -> None:
    begin_round(federation, NAMES)
    round = round_of(federation)
    round.answered, round.gone = {"ann"}, {"bob"}
    ann, bob, cy, dan = (Client(name, 3) for name in (*NAMES, "dan"))
    assert round.kept == (ann,)
    assert round.others([ann, bob, cy, dan]) == [cy, dan]
    assert round.others([ann, bob]) == [bob]  # nobody else is there


def test_a_pause_passes_over_everything_but_the_end(federation: Federation) -> None:
    ticket = Ticket("x" * 32, 1, "ann")
    federation.board.offer([offer_of(ticket)])
    federation.board.events.put(GaveUp(ticket, ""))
    pause(federation.board, 0.01)
    federation.board.events.put(Stopping())
    with pytest.raises(Stopped):
        pause(federation.board, 60.0)


def test_an_order_can_be_read_again() -> None:
    table = json.loads(order_of(TASKS["ann"], 2))
    assert build(ClientTask, table["task"]) == TASKS["ann"]
    assert table["stage"] == 2


def test_a_task_of_a_branch_offers_its_model(federation: Federation) -> None:
    begin_round(federation, NAMES)
    round = round_of(federation)
    content = Content("ab" * 32, 17)
    round.branches = {"x": content}
    seen: dict[str, Offer | None] = {}

    def look(answered: int, gone: int) -> None:
        for name in NAMES:
            seen.setdefault(name, federation.board.offered(name))

    round.ticking = look
    round.last = True
    for ticket in round.opened.tickets.values():
        federation.board.events.put(GaveUp(ticket, ""))
    play(round, {**TASKS, "bob": replace(TASKS["bob"], branch="x")})
    offer = seen["bob"]
    assert offer is not None
    assert (offer.model, offer.model_size, offer.models) == (content.sha256, 17, None)
    other = seen["ann"]
    assert other is not None
    assert other.models is round.models


def test_a_branch_that_nobody_has_given(federation: Federation) -> None:
    begin_round(federation, NAMES)
    tasks = {"ann": replace(TASKS["ann"], branch="y")}
    with pytest.raises(
        StrategyError, match=r"configure, round \d+: branch 'y' of '\w+': it has given \[\]"
    ):
        play(round_of(federation), tasks)


def test_fewer_tasks_than_clients_need_fewer_updates(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    take(federation, tickets["ann"], frame_of(1.0))
    assert play(round_of(federation, minimum=3), {"ann": TASKS["ann"]}) == ["ann"]


def test_what_answers_another_task_than_the_present_one_is_refused(federation: Federation) -> None:
    tickets = begin_round(federation, NAMES)
    take(federation, tickets["ann"], frame_of(1.0))
    other = replace(TASKS["ann"], selectors=Selectors(up=("!*",)))
    round = round_of(federation)
    round.gate = lambda tasks: gate_of([], tasks=tasks)
    (found,) = play(round, {"ann": other})
    assert found.startswith("ann: the payload cannot be decoded")
