import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_server import opened

from fedloom.server.federation import Federation
from fedloom.server.gathering import Gathering
from fedloom.server.live_round import Stopped


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    terms = {"quarantine": 1, "min_clients": 2, "patience": 0.1}
    with opened(tmp_path, server=terms) as found:
        yield found


def gathering(federation: Federation, said: list[str] | None = None) -> Gathering:
    return Gathering(
        federation.board,
        federation.register,
        federation.plan.job.server,
        (said if said is not None else []).append,
        lambda **_: None,
    )


def enrol(federation: Federation, name: str, number: int) -> None:
    class Paper:
        serial = number

    tokens = federation.register.tokens
    tokens.redeem(*tokens.create(), name=name, key=f"k{number}", issue=lambda _: Paper())


def test_who_may_not_work_does_not_count_as_there(federation: Federation) -> None:
    register = federation.register
    for number, name in enumerate(("ann", "bob", "cy"), 1):
        enrol(federation, name, number)
        federation.board.seen(name, 3)
    register.revoke("bob")
    register.refused("cy", "norm")
    assert names(federation) == ["ann"]
    enrol(federation, "bob", 9)  # back by a new token
    register.clear("cy")
    assert names(federation) == ["ann", "bob", "cy"]


def names(federation: Federation) -> list[str]:
    return [client.id for client in gathering(federation).there()]


@pytest.mark.parametrize("again", [False, True])
def test_enough_is_the_least_that_the_job_wants(federation: Federation, again: bool) -> None:
    for name in ("ann", "bob", "cy"):
        federation.board.seen(name, 3)
    assert [c.id for c in gathering(federation).enough(again=again)] == ["ann", "bob", "cy"]


@pytest.mark.parametrize(
    ("paused", "text"),
    [
        (False, "waiting for clients: 1 of 2 are there"),
        (True, "paused; `fedloom resume` goes on"),
    ],
)
def test_it_says_what_it_waits_for_until_it_is_told_to_stop(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, paused: bool, text: str
) -> None:
    monkeypatch.setattr("fedloom.server.gathering.SAY", 0.0)
    federation.board.seen("ann", 3)
    federation.register.paused = paused
    said: list[str] = []
    stopping = threading.Timer(0.1, federation.stop)
    stopping.start()
    with pytest.raises(Stopped):
        gathering(federation, said).enough(again=False)
    stopping.join()
    assert set(said) == {text}
