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


def serve(folder: Path, ports: tuple[str, str], *more: str) -> tuple[Process, list[str]]:
    """A server, and how a client joins it."""
    own = ["--serve", "--json", "--out", "live", "--listen", "127.0.0.1", "--address", "127.0.0.1"]
    own += ["--port", ports[0], "--enrol-port", ports[1], *more]
    with (folder / "server.log").open("ab") as log:
        server = start(["run", APP, *own], folder, stderr=log)
    assert server.stdout is not None
    assert select.select([server.stdout], [], [], 90)[0]
    told = server.stdout.readline()
    found = re.search(r"--join \S+|--insecure \S+", told)
    assert found, (told, (folder / "server.log").read_text())
    return server, found[0].rstrip('"}').split()


@contextmanager
def ending(*processes: Process) -> Iterator[None]:
    """Nothing is left at the end."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


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


def ports() -> tuple[str, str]:
    one, two = free_ports()
    return str(one), str(two)


def test_an_app_runs_over_our_server_with_tls(tmp_path: Path) -> None:
    flags = ["--nodes", "2", "--run-config", "num-server-rounds=6 learning-rate=0.25"]
    server, how = serve(tmp_path, ports(), *flags)
    with ending(server), joined(tmp_path, how) as clients:
        assert server.wait(90) == 0, (tmp_path / "server.log").read_text()
        assert [client.wait(60) for client in clients] == [0, 0]

    found = lines_of(tmp_path / "live")
    assert [line["accepted"] for line in found] == [2] * 6
    assert found[-1]["metrics"]["asked"] == 6  # type: ignore[index]
    # Losses are distances to 0 and to 1. What the server's user set has come to the clients.
    assert found[-1]["evaluation"] == {"loss": pytest.approx(0.5), "rate": 0.25}
    assert (tmp_path / "device0" / "federation.json").exists()
    assert not (tmp_path / "live" / "journal.bin").exists()


def test_whoever_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    flags = ["--nodes", "2", "--no-tls", "--run-config", "num-server-rounds=40"]
    where = ports()
    server, how = serve(tmp_path, where, *flags)
    with ending(server), joined(tmp_path, how) as clients:
        live = tmp_path / "live" / "metrics.jsonl"
        until(lambda: live.exists() and len(lines_of(tmp_path / "live")) > 2, "a round")
        clients[1].send_signal(signal.SIGKILL)
        clients[1].wait(30)
        clients[1] = client_of(tmp_path, how, 1)
        rounds = len(lines_of(tmp_path / "live"))
        until(lambda: len(lines_of(tmp_path / "live")) > rounds + 2, "more rounds")
        server.send_signal(signal.SIGKILL)
        server.wait(30)
        again, _ = serve(tmp_path, where, *flags, "--resume")
        with ending(again):
            assert again.wait(90) == 0, (tmp_path / "server.log").read_text()
            # Half of the distance to the nodes' mean goes in each round.
            assert again.stdout is not None
            assert "last [0.5, 0.5, 0.5, 0.5]" in again.stdout.read()
        assert [client.wait(60) for client in clients] == [0, 0]

    found = lines_of(tmp_path / "live")
    assert [(line["round"], line["accepted"]) for line in found] == [
        (number, 2) for number in range(1, 41)
    ]
    # What a ClientApp keeps in its context outlives its process; messages that a kill cut, of one
    # client and then of both, may have been counted before they were answered.
    assert 40 <= found[-1]["metrics"]["asked"] <= 41.5  # type: ignore[index]
