"""Ports and signals of a server in this process; calls over them are tested elsewhere."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_server import Noted, plan_of

from fedloom.core.errors import RunError
from fedloom.results.observe import Summary
from fedloom.results.rundir import RunDirectory
from fedloom.server.serve import Open, serve


def served(
    tmp_path: Path, opened: Callable[[Open], None] = lambda _: None, **server: Any
) -> Summary:
    plan = plan_of(tmp_path, server=server)
    make = lambda: RunDirectory.create(plan.job, resume=True)  # noqa: E731
    return serve(plan, make, Noted(), opened=opened)


@pytest.mark.parametrize("insecure", [True, False])
def test_it_says_where_it_is_and_ends_when_told(tmp_path: Path, insecure: bool) -> None:
    found: list[Open] = []

    def opened(where: Open) -> None:
        found.append(where)
        for port in filter(None, (where.port, where.enrol_port)):
            socket.create_connection(("127.0.0.1", port), 5).close()
        where.federation.stop()

    handler = signal.getsignal(signal.SIGTERM)
    assert served(tmp_path, opened, insecure=insecure).interrupted
    (where,) = found
    assert (where.address, bool(where.port), bool(where.enrol_port)) == (
        "127.0.0.1",
        True,
        not insecure,
    )
    assert signal.getsignal(signal.SIGTERM) == handler
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", where.port), 5)


@pytest.mark.parametrize("name", ["port", "enrol_port"])
def test_if_a_port_is_taken_nothing_is_left_open(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match="Address already in use"):
            served(tmp_path, **{name: port})
    assert not (tmp_path / "run").exists()
    served(tmp_path, lambda where: where.federation.stop())  # the folder is free


def test_a_round_that_raises_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(*_: object) -> None:
        raise RunError("a damaged disk")

    monkeypatch.setattr(RunDirectory, "append", append)
    with pytest.raises(RunError, match="a damaged disk"):
        served(tmp_path)
