"""Rounds of a live federation, played with clients that are functions."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_server import LAYOUT, Noted, frame_of, opened, plan_of, take

from fedloom.core.cuts import CutTable, Need
from fedloom.core.types import Params, State
from fedloom.server.board import Offer
from fedloom.server.course import Played
from fedloom.server.federation import Federation
from fedloom.server.live_round import Stopped

START = State(Params(LAYOUT, np.zeros(4, dtype=np.float32)))
Answer = Callable[[Offer], object]


@contextmanager
def clients(federation: Federation, answers: dict[str, Answer]) -> Iterator[None]:
    """Clients that answer every offer in a thread of their own."""
    over = threading.Event()
    for name in answers:
        federation.board.seen(name, 3)

    def work(name: str, answer: Answer) -> None:
        while not over.wait(0.005):
            offer = federation.board.offered(name)
            if offer is not None and federation.intake.gate is not None:
                answer(offer)

    threads = [threading.Thread(target=work, args=pair) for pair in answers.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def sends(federation: Federation, value: float, weight: int = 3) -> Answer:
    return lambda offer: take(federation, offer.ticket, frame_of(value), num_examples=weight)


def gives_up(federation: Federation) -> Answer:
    return lambda offer: federation.intake.gave_up(offer.ticket.client, offer.ticket.id, "no")


def played(federation: Federation, rounds: int = 1) -> list[Played]:
    return list(federation.live.play(0, START, first=1, last=rounds))


def test_rounds_are_the_strategys(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        answers = {"ann": sends(federation, 1.0, 1), "bob": sends(federation, 3.0, 3)}
        with clients(federation, answers):
            first, second = played(federation, 2)
    assert first.state.params.vector.tolist() == [2.5] * 4  # (1 * 1 + 3 * 3) / 4
    assert second.state.params.vector.tolist() == [5.0] * 4
    assert (second.report.round, second.report.accepted, second.state.version) == (2, 2, 2)
    standing = federation.live.standing
    assert (standing.phase, standing.round, standing.asked) == ("training", 2, 2)
    one = len(frame_of(0.0))
    assert (standing.bytes_up, standing.bytes_down) == (2 * 2 * one, 2 * 2 * one)


def test_below_the_minimum_who_is_left_is_asked_and_what_came_counts(tmp_path: Path) -> None:
    terms = {"minimum": 1.0, "patience": 0.0, "min_clients": 3}
    noted = Noted()
    with opened(tmp_path, noted, server=terms) as federation:
        chosen: list[str] = []

        def first_gives_up(offer: Offer) -> None:
            chosen.append(offer.ticket.client)
            answer = sends(federation, 2.0) if len(chosen) > 1 else gives_up(federation)
            answer(offer)

        with clients(federation, dict.fromkeys(("ann", "bob", "cy"), first_gives_up)):
            (done,) = played(federation)
    assert len(set(chosen)) == 3
    assert (done.report.accepted, len(done.report.refused)) == (2, 0)  # of the last attempt
    assert noted.notes == ["round 1: 1 updates, fewer than 2; asking others too"]
    assert done.state.params.vector.tolist() == [2.0] * 4


def test_after_its_last_try_a_round_ends_with_nothing(tmp_path: Path) -> None:
    terms = {"attempts": 1, "patience": 0.0}
    with opened(tmp_path, server=terms) as federation:
        names = ("ann", "bob")
        with clients(federation, dict.fromkeys(names, gives_up(federation))):
            (done,) = played(federation)
    assert done.report.accepted == 0
    assert done.state.params.vector.tolist() == [0.0] * 4


def test_of_a_split_model_a_client_is_asked_to_hold_what_its_memory_does(tmp_path: Path) -> None:
    asked: dict[str, int | None] = {}
    with opened(tmp_path) as federation:
        needs = (Need(100, 0, 0), Need(200, 0, 0))
        federation.live.plan = replace(federation.live.plan, cuts=CutTable(1, needs, 8))

        def answer(offer: Offer) -> None:
            asked[offer.ticket.client] = json.loads(offer.order)["task"].get("bottom")
            sends(federation, 1.0)(offer)

        with clients(federation, {"ann": answer, "bob": answer}):
            federation.board.seen("ann", 3, memory=200)
            played(federation)
    assert asked == {"ann": 2, "bob": None}  # of bob nothing is known


def test_a_paused_federation_begins_no_round(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        federation.register.paused = True
        for name in ("ann", "bob"):
            federation.board.seen(name, 3)
        stopping = threading.Timer(0.2, federation.stop)
        stopping.start()
        with pytest.raises(Stopped):
            played(federation)
        stopping.join()
        assert federation.live.standing.phase == "paused"
        assert federation.ledger.current() is None


def test_evaluations_of_the_server_and_of_clients_stand_side_by_side(tmp_path: Path) -> None:
    with opened(
        tmp_path, server={"evaluate_clients": 2, "patience": 10.0, "min_clients": 1}
    ) as federation:
        live = federation.live
        plan = replace(plan_of(tmp_path), judging=lambda index, params: lambda model: {"loss": 1.0})
        live.plan = replace(plan, job=live.plan.job)
        federation.intake.gate = None

        def evaluate(name: str) -> None:
            federation.board.seen(name, 3)
            until = time.monotonic() + 10
            while (offer := federation.board.offered(name)) is None:
                assert time.monotonic() < until
                time.sleep(0.005)
            take(federation, offer.ticket, b"", metrics={"loss": 0.5})

        federation.board.seen("ann", 3)
        thread = threading.Thread(target=evaluate, args=("ann",))
        thread.start()
        found = live.judge(0, START.params)(START.params)
        thread.join()
    assert found == {"loss": 1.0, "clients_loss": 0.5}
    assert live.standing.evaluation == found


def test_the_end_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        federation.live.ended(1, interrupted=True)
        assert (federation.live.standing.phase, federation.board.finished("x")) == ("stopped", "")
        federation.live.ended(1, interrupted=False)
        assert federation.live.standing.phase == "finished"
        assert federation.board.finished("x") == "all 1 rounds are done"


def test_of_the_models_only_the_newest_is_offered(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        live = federation.live
        first = live._publishing.model(0, START, 0).content
        moved = State(Params(LAYOUT, np.ones(4, dtype=np.float32)), 1)
        second = live._publishing.model(0, moved, 1).content
        assert first != second
        assert list(_offered(federation, [first.sha256, second.sha256])) == [False, True]
        assert live._publishing.model(0, moved, 1).content == second


def _offered(federation: Federation, addresses: Sequence[str]) -> Iterator[bool]:
    stored: dict[str, Any] = federation.contents._stored
    return (address in stored for address in addresses)
