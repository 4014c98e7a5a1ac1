import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_server import opened

from fedloom.cli import main
from fedloom.live_commands import add_live_commands
from fedloom.security.tokens import JoinToken
from fedloom.server.federation import Federation


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path) as found:
        found.live.reachable("127.0.0.1", 7441, 7440)
        yield found


def run(capsys: pytest.CaptureFixture[str], federation: Federation, *words: str) -> str:
    assert main([*words, "--in", str(federation.folder)]) == 0
    return capsys.readouterr().out


def test_tokens_are_made_listed_and_revoked(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(capsys, federation, "token", "create", "--client", "pi", "--ttl", "2h")
    token = JoinToken.parse(made.strip())
    (row,) = json.loads(run(capsys, federation, "token", "list", "--json"))
    assert (row["id"], row["name"], row["expires"] - row["created"]) == (token.id, "pi", 7200.0)
    assert token.id in run(capsys, federation, "token", "list")
    assert "lets nobody in" in run(capsys, federation, "token", "revoke", token.id)
    assert federation.register.tokens.list()[0].revoked


def test_clients_are_listed_revoked_and_cleared(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    class Paper:
        serial = 1

    tokens = federation.register.tokens
    tokens.redeem(*tokens.create(), name="ann", key="k", issue=lambda _: Paper())
    (row,) = json.loads(run(capsys, federation, "clients", "--json"))
    assert (row["id"], row["status"]) == ("ann", "enrolled")
    assert "work again" in run(capsys, federation, "clients", "--clear", "ann")
    assert "is shut out" in run(capsys, federation, "clients", "--revoke", "ann")
    assert "revoked" in run(capsys, federation, "clients")


def test_rounds_are_stopped_and_go_on(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no further round begins" in run(capsys, federation, "stop")
    assert federation.register.paused
    assert run(capsys, federation, "resume") == "rounds go on\n"
    assert not federation.register.paused


def test_where_it_stands(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, federation, "status").startswith("small: waiting")
    assert json.loads(run(capsys, federation, "status", "--json"))["name"] == "small"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["token", "create", "--uses", "0"], "uses = 0: 1 or more"),
        (["token", "create", "--ttl", "soon"], "ttl = 'soon'"),
        (["token", "revoke", "nothing"], "no token 'nothing'"),
        (["clients", "--clear", "nobody"], "no client 'nobody'"),
    ],
)
def test_mistakes_are_one_line(
    federation: Federation, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert main([*words, "--in", str(federation.folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fedloom: error: ")
    assert (text in err, err.count("\n")) == (True, 1), err


def test_every_command_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_live_commands(commands)
    names = ("client", "token", "clients", "status", "stop", "resume", "stage", "load")
    assert tuple(commands.choices) == names
    for name in names:
        assert commands.choices[name].description
