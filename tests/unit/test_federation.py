import errno
import sqlite3
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from small_server import Noted, begin_round, frame_of, opened, plan_of, take

from fedloom.core.errors import RunError
from fedloom.core.types import Client
from fedloom.results.observe import RoundLine, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.security import certificates as certs
from fedloom.security.request import make_request
from fedloom.server.federation import Federation
from fedloom.server.standing import read_standing

SECONDS = 20.0


def directory_of(federation: Federation) -> RunDirectory:
    return RunDirectory.create(federation.plan.job, resume=True)


def started(federation: Federation, observer: Noted) -> "Future[Summary]":
    return federation.start(directory_of(federation), observer)


def test_a_second_server_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    with (
        opened(tmp_path) as first,
        pytest.raises(RunError, match="another server"),
        opened(tmp_path),
    ):
        pass
    with opened(tmp_path) as again:
        assert again.authority.federation == first.authority.federation
        assert again.job == first.job


def test_the_rounds_end_where_they_are_when_told(tmp_path: Path) -> None:
    observer = Noted()
    with opened(tmp_path, observer) as federation:
        ended = started(federation, observer)
        federation.stop()
        summary = ended.result(SECONDS)
        assert (summary.interrupted, summary.rounds, federation.told) == (True, 0, True)
        assert observer.summaries == [summary]
        assert read_standing(federation.folder).phase == "stopped"


def test_an_open_round_goes_on_if_it_is_of_this_run(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        federation.ledger.clear(federation.job.sha256)
        tickets = begin_round(federation, ["ann", "bob"])
        for ticket in tickets.values():
            take(federation, ticket, frame_of(2.0))
    observer = Noted()
    with opened(tmp_path, observer) as federation:  # nobody is there, and nobody has to be
        summary = started(federation, observer).result(SECONDS)
        assert (summary.rounds, summary.interrupted) == (1, False)
    assert [(line.round, line.accepted) for line in observer.lines] == [(0, 0), (1, 2)]


@pytest.mark.parametrize("other", [{"seed": 7}, {"rounds": 2}])
def test_an_open_round_of_another_run_is_dropped(tmp_path: Path, other: dict[str, Any]) -> None:
    with opened(tmp_path) as federation:
        federation.ledger.clear(federation.job.sha256)
        begin_round(federation, ["ann"])
    with opened(tmp_path, **other) as federation:
        ended = started(federation, Noted())
        federation.stop()
        assert ended.result(SECONDS).interrupted
        assert federation.ledger.current() is None
        assert federation.ledger.job == federation.job.sha256


def test_a_round_that_is_long_done_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:
        federation.ledger.clear(federation.job.sha256)
        federation.ledger.begin(5, 1, 0, [Client("ann", 3)])
        ended = started(federation, Noted())
        federation.stop()
        ended.result(SECONDS)
        assert federation.ledger.current() is None


def test_a_full_disk_holds_a_run_up_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedloom.server.federation._NO_ROOM", 0.01)
    with opened(tmp_path) as federation:
        federation.ledger.clear(federation.job.sha256)
        for ticket in begin_round(federation, ["ann", "bob"]).values():
            take(federation, ticket, frame_of(2.0))
    written, rewound = RunDirectory.append, RunDirectory.rewind
    room = {"append": 2, "rewind": 2}

    def append(self: RunDirectory, line: RoundLine) -> None:
        fail("append", line.round == 1)
        written(self, line)

    def rewind(self: RunDirectory) -> None:
        fail("rewind", room["append"] < 2)
        rewound(self)

    def fail(what: str, due: bool) -> None:
        if due and room[what]:
            room[what] -= 1
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise RunError(f"{what}: cannot be written") from None

    monkeypatch.setattr(RunDirectory, "append", append)
    monkeypatch.setattr(RunDirectory, "rewind", rewind)
    observer = Noted()
    with opened(tmp_path, observer) as federation:
        summary = started(federation, observer).result(SECONDS)
        lines = list(directory_of(federation).history())
    assert (summary.rounds, room) == (1, {"append": 0, "rewind": 0})
    assert observer.notes == ["append: cannot be written; going on when there is room"]
    assert [(line.round, line.accepted) for line in lines] == [(0, 0), (1, 2)]


def test_what_else_goes_wrong_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: object) -> None:
        raise RunError("a damaged disk")

    monkeypatch.setattr(RunDirectory, "append", append)
    with opened(tmp_path) as federation, pytest.raises(RunError, match="a damaged disk"):
        started(federation, Noted()).result(SECONDS)


def test_tidying_up_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with opened(tmp_path) as federation:
        monkeypatch.setattr(federation.register, "flush", full)
        federation.tidy()
        assert read_standing(federation.folder).name == "small"


def test_a_certificate_is_renewed(tmp_path: Path) -> None:
    with opened(tmp_path) as federation:

        class Paper:
            serial = 1

        tokens = federation.register.tokens
        tokens.redeem(*tokens.create(), name="ann", key="k", issue=lambda _: Paper())
        leaf = x509.load_pem_x509_certificate(
            federation.renew("ann", make_request(certs.new_key()))
        )
        client = federation.register.client("ann")
        assert client is not None
        assert client.serial == f"{leaf.serial_number:x}"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(RunError, match="state: cannot be used"):
        Federation.open(plan_of(tmp_path), Noted())
