"""What goes wrong on the server's side: it says what, and goes on where it can."""

import json
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from live_server import SECONDS, Refused, Server, parts_of, refusal, serving, start
from small_jobs import classify_table, labelled_rows, write_rows, write_toml

from fedloom.cli import main

FULL = ("RESOURCE_EXHAUSTED", "disk-full")


@contextmanager
def no_room(server: Server) -> Iterator[None]:
    """No file of the server's may grow: what a full disk comes to, without one."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_ends_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, tls=True, rounds=2) as server:
        ann, bob = server.device("ann"), server.device("bob")
        for device in (ann, bob):
            device.check_in()
        task, token = bob.task(), server.token()
        receipt = ann.send(ann.task(), 1.0)
        with no_room(server):
            with pytest.raises(Refused) as caught:
                bob.send(task, 3.0)
            assert (caught.value.status, caught.value.code) == FULL
            assert caught.value.after == 30.0
            assert refusal(lambda: server.enrol(token, name="cy")) == FULL
            # not even that it was refused can be written, and so it is not
            assert refusal(lambda: bob.upload(parts_of(task, bytes(60)))) == FULL
            assert ann.check_in().HasField("wait")
            assert bob.task().ticket == task.ticket
        assert bob.send(task, 3.0) > receipt
        assert server.enrol(token, name="cy").client == "cy"

        # and where the round ends: it is gone through again when there is room
        task = bob.task()
        ann.send(ann.task(), -2.0)
        with no_room(server):
            assert bob.check_in(failed=task.ticket, failure="no memory").HasField("wait")
            assert ann.check_in(0.5).HasField("wait")
        bob.send(bob.task(), -2.0)
        assert server.ended()["rounds"] == 2
        np.testing.assert_array_equal(server.model, np.zeros(8))
        assert [line["accepted"] for line in server.lines] == [2, 2]


def test_two_servers_in_one_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        second = start(tmp_path, {"server": {"insecure": True}})
        _, err = second.communicate(timeout=SECONDS)
        assert second.returncode == 1
        assert f"another server (pid {server.process.pid}) works here" in err
        assert server.device("ann").check_in().HasField("wait")


@pytest.fixture
def job(text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job that could be served."""
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "")  # to be as it was afterwards
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", labelled_rows(96))
    listening = {"listen": "127.0.0.1", "port": 0, "enrol_port": 0}
    table = classify_table(text_model["classify"], "rows.jsonl", server=listening)
    return write_toml(tmp_path / "job.toml", table)


MISTAKES = {
    "no data and no classes": ("data.path=", r"data\.classes = \[\]: a server without data\.path"),
    "an unknown key": ("server.min_client=3", r"unknown key; .*did you mean 'min_clients'\?"),
    "a port that is none": ("server.port=70000", r"server\.port = 70000: 0 \(any.*65535"),
    "nobody": ("server.min_clients=0", r"server\.min_clients = 0: 1 or more"),
    "a minimum above the goal": ("server.minimum=2.0", r"server\.minimum = 2\.0: .*at most goal"),
    "too few asked": ("server.over_select=0.5", r"server\.over_select = 0\.5: 1 or more"),
    "a life of a year": ("server.certificate_hours=8760", r"at most 168: a week"),
    "a name that is none": ('server.address="a b"', r"'a b': a host name"),
    "a folder that cannot be": ("server.directory=job.toml/state", r"job\.toml/state: cannot be"),
    "an address that is not ours": ("server.listen=192.0.2.1", r"192\.0\.2\.1:0: cannot listen"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_server_that_cannot_begin_says_why_in_one_line(
    mistake: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting, expected = MISTAKES[mistake]
    assert main(["server", str(job), "--quiet", "--set", setting]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(f"fedloom: error: .*{expected}", err), err
    assert not (job.parent / "runs").exists()


def test_a_port_that_is_taken(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("port", "enrol_port", "metrics_port"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert main(["server", str(job), "--quiet", "--set", f"server.{name}={port}"]) == 2
        assert re.search(f"{port}.*[Aa]ddress already in use", capsys.readouterr().err)
    assert not (job.parent / "runs").exists()


def test_commands_where_there_is_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["token", "create"], ["clients"], ["status"], ["stop"], ["resume"]):
        assert main([*command, "--in", str(tmp_path)]) == 2
        assert re.search(r"no federation's state|no server has worked", capsys.readouterr().err)


def test_commands_beside_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path) as server:
        server.device("ann").check_in()
        folder = str(server.state)
        assert main(["status", "--in", folder, "--json"]) == 0
        standing = json.loads(capsys.readouterr().out)
        assert (standing["name"], standing["alive"], standing["pid"]) == (
            "bare",
            True,
            server.process.pid,
        )
        assert main(["token", "create", "--in", folder]) == 2
        assert "has no TLS" in capsys.readouterr().err
        assert main(["clients", "--in", folder, "--revoke", "nobody"]) == 2
        assert "no client 'nobody'" in capsys.readouterr().err
