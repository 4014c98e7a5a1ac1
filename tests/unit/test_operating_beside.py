import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_server import opened

from fedloom.core.errors import ConfigError, IdentityError, RunError
from fedloom.operating import (
    clients_table,
    new_token,
    pause,
    register_of,
    seconds_of,
    show,
    standing_lines,
    standing_table,
    tokens_table,
    watch,
)
from fedloom.security.tokens import JoinToken
from fedloom.server.federation import Federation
from fedloom.server.standing import Standing, write_standing


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path, server={"quarantine": 1}) as found:
        found.live.reachable("fed.example.org", 7441, 7440)
        yield found


def enrol(federation: Federation, *names: str) -> None:
    tokens = federation.register.tokens
    for number, name in enumerate(names):

        class Paper:
            serial = number + 1

        key = f"{name}{len(federation.register.clients())}"
        tokens.redeem(*tokens.create(), name=name, key=key, issue=lambda _: Paper())


def test_a_token_says_where_and_whom_to_join(federation: Federation) -> None:
    text = new_token(federation.folder, name="kitchen", uses=2, seconds=60.0)
    token = JoinToken.parse(text)
    assert (token.host, token.port) == ("fed.example.org", 7440)
    assert token.pin == federation.authority.pin
    (row,) = tokens_table(federation.folder)
    assert (row["id"], row["name"], row["uses"], row["usable"]) == (token.id, "kitchen", 2, True)
    assert token.secret not in json.dumps(row)
    register_of(federation.folder).tokens.revoke(token.id)
    assert not tokens_table(federation.folder)[0]["usable"]
    with pytest.raises(IdentityError, match="does not print"):
        new_token(federation.folder, name="a\nb", uses=1, seconds=60.0)


def test_a_server_without_tls_has_no_tokens(federation: Federation, tmp_path: Path) -> None:
    write_standing(federation.folder, Standing("x"))
    with pytest.raises(RunError, match="its server has no TLS"):
        new_token(federation.folder, name="", uses=1, seconds=60.0)
    with pytest.raises(RunError, match="no federation's state"):
        new_token(tmp_path, name="", uses=1, seconds=60.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), ("7d", 604800.0)]
)
def test_how_long(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "12 parsecs", "1e"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="a number and s, m, h or d"):
        seconds_of(text)


def test_what_becomes_of_clients(federation: Federation) -> None:
    enrol(federation, "ann", "bob", "cy", "dan")
    federation.register.refused("bob", "norm")
    for name in ("cy", "dan"):
        federation.register.revoke(name)
    enrol(federation, "dan")
    found = {row["id"]: row["status"] for row in clients_table(federation.folder)}
    assert found == {
        "ann": "enrolled",
        "bob": "quarantined (norm)",
        "cy": "revoked",
        "dan": "enrolled",  # it came back with another token
    }


def test_rounds_are_paused_and_resumed(federation: Federation) -> None:
    pause(federation.folder, paused=True)
    assert federation.register.paused
    pause(federation.folder, paused=False)
    assert not federation.register.paused


def test_where_a_federation_stands(federation: Federation) -> None:
    enrol(federation, "ann")
    standing = Standing(
        "demo",
        phase="training",
        round=4,
        rounds=10,
        stage="head",
        asked=5,
        arrived=3,
        refused=1,
        present=6,
        bytes_up=2_000_000,
        bytes_down=1_000_000,
        seconds_per_round=2.0,
        evaluation={"accuracy": 0.5},
    )
    write_standing(federation.folder, standing)
    table = standing_table(federation.folder)
    assert (table["pid"], table["alive"], table["eta"]) == (os.getpid(), True, 14.0)
    text = "\n".join(standing_lines(federation.folder))
    for part in (
        "demo: training\n",
        "round     4 of 10 head",
        "updates   3 of 5, 1 gave up",
        "clients   1 enrolled, 6 there",
        "up 2.00 MB, down 1.00 MB",
        "accuracy 50.0 %",
        "remaining 14.0 s, at 2.0 s a round",
    ):
        assert part in text, text


def test_a_server_that_is_gone_is_said_to_be(federation: Federation) -> None:
    write_standing(federation.folder, Standing("demo", phase="training"))
    path = federation.folder / "standing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "written": 0.0}))
    assert "no server is running" in standing_lines(federation.folder)[0]
    write_standing(federation.folder, Standing("demo", phase="finished"))
    assert not standing_table(federation.folder)["alive"]
    assert standing_lines(federation.folder)[0].startswith("demo: finished")
    watch(federation.folder)  # it is over: this ends at once


def test_rows_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "ann", "seen": None, "usable": True, "last_code": ""}]
    show(rows, ("id", "seen", "usable", "last_code"), as_json=False)
    text = capsys.readouterr().out
    assert "last code" in text
    assert text.splitlines()[1].split() == ["ann", "-", "yes", "-"]
    show(rows, ("id",), as_json=True)
    assert json.loads(capsys.readouterr().out) == rows
