import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.operating import (
    clients_table,
    new_token,
    register_of,
    seconds_of,
    show,
    standing_lines,
)
from fedloom.server.database import Database
from fedloom.server.standing import Standing, write_standing
from fedloom.server.tokens import Certificate

STANDING = Standing("shop", round=2, rounds=5, stage="head", asked=3, arrived=1, refused=1)


class Issued(Certificate):
    serial = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Database.open(tmp_path / "federation", exclusive=True).close()
    write_standing(tmp_path / "federation", STANDING)
    return tmp_path / "federation"


def enrol(folder: Path, name: str, *, examples: int) -> None:
    register = register_of(folder)
    id, secret = register.tokens.create(name)
    register.tokens.redeem(id, secret, name="", key=name, issue=lambda client: Issued())
    register.seen(name, num_examples=examples, device="aarch64 Linux 6.6, 4 cores, 3.1 GiB")
    register.flush()


@pytest.mark.parametrize(
    ("phase", "hint"),
    [
        ("waiting", ""),
        ("finished", ""),
        ("stopped", "  (no server is running: the same `fedloom server` goes on)"),
    ],
)
def test_the_first_line_says_whether_a_server_has_to_be_started(
    phase: str, hint: str, folder: Path
) -> None:
    write_standing(folder, replace(STANDING, phase=phase))
    assert standing_lines(folder)[0] == f"shop: {phase}{hint}"


def test_a_server_that_has_not_written_for_long_is_not_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert "no server is running" in standing_lines(folder)[0]


def test_where_a_federation_stands(folder: Path) -> None:
    enrol(folder, "pi", examples=9)
    assert standing_lines(folder)[1:4] == [
        "  round     2 of 5 head",
        "  updates   1 of 3, 1 gave up",
        "  clients   1 enrolled, 0 there",
    ]


def test_what_has_become_of_clients(folder: Path) -> None:
    for name, examples in (("a", 9), ("b", 0), ("c", 9)):
        enrol(folder, name, examples=examples)
    register_of(folder).revoke("c")
    found = {client["id"]: client["status"] for client in clients_table(folder)}
    assert found == {"a": "enrolled", "b": "enrolled, no data", "c": "revoked"}


def test_a_row_is_a_line_where_nobody_looks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrol(folder, "attic", examples=9)
    columns = ("id", "status", "num_examples", "accepted", "refused", "seen", "device")
    show(clients_table(folder), columns, as_json=False)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == [*("id", "status", "num", "examples", "accepted"), *columns[4:]]
    assert row.split()[0] == "attic"
    assert row.rstrip().endswith("aarch64 Linux 6.6, 4 cores, 3.1 GiB")


def test_commands_elsewhere_say_where_to_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no federation's state is here; --in names the server's"):
        clients_table(tmp_path)
    with pytest.raises(RunError, match=r"no server has worked here .*; --in names the server's"):
        standing_lines(tmp_path)


def test_no_token_for_a_server_without_tls(folder: Path) -> None:
    with pytest.raises(RunError, match="has no TLS: clients join it by HOST:PORT"):
        new_token(folder, name="", uses=1, seconds=60.0)


def test_durations() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "12h", "7d")] == [90, 1800, 43200, 604800]
