import logging
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from small_jobs import classify_table, labelled_rows, write_rows
from small_server import Noted, plan_of
from small_server import opened as opened_in

from fedloom.core.errors import ConfigError, RunError
from fedloom.security.tokens import JoinToken
from fedloom.server.serve import Open
from fedloom.serving import join_line, serve


@pytest.fixture(autouse=True)
def _ciphers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "")  # to be as it was afterwards


def test_the_token_lets_in_as_many_as_a_round_asks_for(tmp_path: Path) -> None:
    with opened_in(tmp_path, clients_per_round=3, server={"min_clients": 5}) as federation:
        where = Open("fed.example.org", 7441, 7440, federation)
        line = join_line(where, federation.plan.job)
        token = JoinToken.parse(line.split()[3])
        assert line == f"fedloom client --join {token} --data FILE"
        assert (token.host, token.port) == ("fed.example.org", 7440)
        assert token.pin == federation.authority.pin
        (kept,) = federation.register.tokens.list()
        assert (kept.id, kept.uses, kept.expires - kept.created) == (token.id, 5, 86400.0)


def test_without_tls_there_is_no_token(tmp_path: Path) -> None:
    job = plan_of(tmp_path).job
    where = cast(Open, SimpleNamespace(address="10.0.0.7", port=7441, enrol_port=0))
    assert join_line(where, job) == "fedloom client --insecure 10.0.0.7:7441 --data FILE"


def table_of(text_model: dict[str, Path], tmp_path: Path, **server: Any) -> dict[str, Any]:
    write_rows(tmp_path / "rows.jsonl", labelled_rows(96))
    table = classify_table(text_model["classify"], tmp_path / "rows.jsonl")
    table["run"]["directory"] = str(tmp_path / "run")
    listening = {"listen": "127.0.0.1", "port": 0, "enrol_port": 0, "evaluate_clients": 1}
    return {**table, "server": {"directory": str(tmp_path / "state"), **listening, **server}}


def test_a_job_is_served_from_python(text_model: dict[str, Path], tmp_path: Path) -> None:
    log = logging.getLogger("fedloom.server")
    before, lines = log.handlers[:], list[str]()

    over = threading.Event()

    def end() -> None:
        while not over.wait(0.3):
            os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)

    def opened(line: str) -> None:
        lines.append(line)
        ending.start()

    kept = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        table = table_of(text_model, tmp_path)
        summary = serve(table, observer=Noted(), opened=opened)
    finally:
        over.set()
        ending.join()
        signal.signal(signal.SIGTERM, kept)
    assert summary.interrupted
    assert lines[0].startswith("fedloom client --join flt1.")
    assert (tmp_path / "state" / "server.log").exists()
    assert log.handlers == before


def test_nothing_is_made_of_a_job_that_cannot_be_served(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model, tmp_path)
    with pytest.raises(ConfigError, match="a server without"):
        serve({**table, "data": {"path": ""}}, observer=Noted())
    with pytest.raises(RunError, match="not a folder"):
        serve(table, observer=Noted(), settings={"run.directory": str(tmp_path / "rows.jsonl")})
    assert not (tmp_path / "state").exists()
