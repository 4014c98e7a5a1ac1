"""An app of Flower that knows nothing of us: simulated, and over our server with TLS."""

import json
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from command_forks import Process, start
from live_processes import free_ports
from small_jobs import fedloom
from waiting import until

APP = Path(__file__).parents[1] / "fixtures" / "flower_app"


def lines_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_app_is_simulated_as_it_is(tmp_path: Path) -> None:
    done = fedloom("run", APP, "--nodes", "6", "--run-config", "num-server-rounds=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = fedloom("run", APP, "--nodes", "6", "--out", "again", "--quiet", cwd=tmp_path)

    found = lines_of(tmp_path / "runs" / "quickstart-app")
    assert [(line["round"], line["accepted"]) for line in found] == [(n, 3) for n in (1, 2, 3, 4)]
    # 3 of 6 nodes, each sent 144 bytes: four float32 behind .npy's header of 128.
    assert [line["bytes_up"] for line in found] == [3 * 144] * 4
    assert json.loads((tmp_path / "runs/quickstart-app/summary.json").read_text())["rounds"] == 4
    assert "round 4/4 flower" in done.stderr
    assert again.stdout.startswith("last [")
    same = ("loss", "evaluation", "metrics")
    assert [[line[key] for key in same] for line in lines_of(tmp_path / "again")] == [
        [line[key] for key in same] for line in found[:3]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "no such file"),
        (
            [str(APP), "--run-config", "rounds=3"],
            "--run-config rounds: the app knows learning-rate",
        ),
        ([str(APP), "--nodes", "0"], "nodes = 0: 1 or more"),
        ([str(APP), "--insecure", "nowhere"], "insecure = 'nowhere': expected HOST:PORT"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = fedloom("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[Process, list[str]]]:
    """The server, and how a client joins it."""
    port, enrol = map(str, free_ports())
    own = ["--serve", "--json", "--out", "live", "--listen", "127.0.0.1", "--address", "127.0.0.1"]
    own += ["--port", port, "--enrol-port", enrol, *more]
    with (folder / "server.log").open("wb") as log:
        server = start(["run", APP, *own], folder, stderr=log)
    try:
        assert server.stdout is not None
        assert select.select([server.stdout], [], [], 90)[0]
        told = server.stdout.readline()
        found = re.search(r"--join \S+|--insecure \S+", told)
        assert found, (told, (folder / "server.log").read_text())
        yield server, found[0].rstrip('"}').split()
    finally:
        server.kill()
        server.communicate()


def client_of(folder: Path, how: list[str], place: int) -> Process:
    own = ["--directory", f"device{place}", "--name", f"device{place}"]
    own += ["--node-config", f"partition-id={place} num-partitions=2"]
    with (folder / f"client{place}.log").open("ab") as log:
        return start(["run", APP, *how, *own], folder, stdout=log, stderr=log)


@contextmanager
def joined(folder: Path, how: list[str]) -> Iterator[list[Process]]:
    """Two clients at work."""
    clients = [client_of(folder, how, place) for place in range(2)]
    try:
        yield clients
    finally:
        for client in clients:
            client.kill()
            client.wait()


def test_an_app_runs_over_our_server_with_tls(tmp_path: Path) -> None:
    flags = ["--nodes", "2", "--run-config", "num-server-rounds=6"]
    with serving(tmp_path, *flags) as (server, how), joined(tmp_path, how) as clients:
        assert server.wait(90) == 0, (tmp_path / "server.log").read_text()
        assert [client.wait(60) for client in clients] == [0, 0]

    found = lines_of(tmp_path / "live")
    assert [line["accepted"] for line in found] == [2] * 6
    # All of two nodes: each round halves the distance to their mean, 0.5.
    assert found[-1]["metrics"]["asked"] == 6  # type: ignore[index]
    assert found[-1]["evaluation"]["loss"] == pytest.approx(0.5)  # type: ignore[index]
    assert (tmp_path / "device0" / "federation.json").exists()


def test_a_client_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    flags = ["--nodes", "2", "--no-tls", "--run-config", "num-server-rounds=40"]
    with serving(tmp_path, *flags) as (server, how), joined(tmp_path, how) as clients:
        live = tmp_path / "live" / "metrics.jsonl"
        until(lambda: live.exists() and len(lines_of(tmp_path / "live")) > 2, "a round")
        clients[1].send_signal(signal.SIGKILL)
        clients[1].wait(30)
        clients[1] = client_of(tmp_path, how, 1)
        assert server.wait(90) == 0, (tmp_path / "server.log").read_text()
        assert [client.wait(60) for client in clients] == [0, 0]

    found = lines_of(tmp_path / "live")
    assert [line["accepted"] for line in found] == [2] * 40
    # What a ClientApp keeps in its context outlives its process; the message that the kill cut
    # may have been counted before it was answered.
    assert found[-1]["metrics"]["asked"] in (40, 40.5)  # type: ignore[index]
