"""A device against a server of the contract: it joins in, trains, evaluates, survives, ends."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_forks import command_environment
from contract_server import Misbehaving, Refused, serving
from small_federation import Federation
from small_jobs import labelled_rows, write_rows
from waiting import until

from fedloom.client.settings import ClientSettings
from fedloom.client.start import take_part
from fedloom.protos import federation_pb2 as wire


@pytest.fixture
def server() -> Misbehaving:
    return Misbehaving(chunk=64 * 1024)


@pytest.fixture
def federation(server: Misbehaving, text_model: dict[str, Path]) -> Federation:
    return Federation(text_model["classify"], server)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "own.jsonl", labelled_rows(60, clients=1))


def giving(
    federation: Federation, **what: Any
) -> Callable[[wire.CheckInRequest], wire.CheckInReply]:
    return lambda _: wire.CheckInReply(job=federation.manifest, **what)


WAIT = wire.Wait(seconds=0.01, reason="no round is open")
DONE = wire.Done(reason="all rounds are done")


def settings(tmp_path: Path, data: Path | str, port: int, **changes: Any) -> ClientSettings:
    given = ClientSettings(
        directory=str(tmp_path / "device"),
        data=str(data),
        insecure=f"127.0.0.1:{port}",
        name="device",
        threads=1,
        cache_gb=0.0,
        wait=0.5,
    )
    return replace(given, **changes)


def test_a_device_trains_evaluates_and_ends(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    server.answers.extend(
        (
            giving(federation, wait=WAIT),
            giving(federation, wait=WAIT),
            giving(federation, task=federation.task(1, 0, "a" * 32)),
            giving(federation, task=federation.task(2, 1, "b" * 32)),
            giving(federation, task=federation.task(2, 1, "c" * 32, kind="evaluate")),
            giving(federation, done=DONE),
        )
    )
    server.cut_down.extend([1, 2])
    server.cut_up.extend([0, 0])
    with serving(server) as port:
        assert take_part(settings(tmp_path, data, port)) == 0
    header, frame = server.results["a" * 32]
    assert frame == federation.expected(data, 1, 0)
    assert header.num_examples == 50  # of 60 rows, a sixth are for the test
    assert header.codec == "float32"
    assert 0 < header.metrics["loss"] < 3
    assert header.download_seconds > 0
    assert server.results["b" * 32][1] == federation.expected(data, 2, 1)
    evaluated, nothing = server.results["c" * 32]
    assert (evaluated.num_examples, nothing, evaluated.size) == (10, b"", 0)
    assert set(evaluated.metrics) == {"loss", "accuracy", "macro_f1"}
    # the first check-in knows no data yet and asks for no wait
    first, second = server.check_ins[:2]
    assert (first.num_examples, first.wait_seconds) == (0, 0.0)
    assert (second.num_examples, second.wait_seconds) == (50, 0.5)
    assert first.device.cores == 1
    assert set(server.names) == {"device"}


def test_a_revoked_device_ends_with_2(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path, capfd: Any
) -> None:
    def revoked(_: wire.CheckInRequest) -> wire.CheckInReply:
        raise Refused("revoked", "device was revoked by the operator: ask for a new join token")

    server.answers.append(revoked)
    with serving(server) as port:
        done = client(settings(tmp_path, data, port), tmp_path)
    assert done.returncode == 2
    assert "revoked by the operator: ask for a new join token" in done.stderr


def test_data_that_do_not_fit_are_told_and_waited_for(
    federation: Federation, server: Misbehaving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedloom.client.agent._IDLE", 0.2)  # seconds before it looks again
    data = write_rows(tmp_path / "own.jsonl", [{"text": "x", "label": "moon", "split": "train"}])

    def mended(request: wire.CheckInRequest) -> wire.CheckInReply:
        if request.failure:
            write_rows(data, labelled_rows(60, clients=1))
        kind = {"done": DONE} if request.num_examples else {"wait": WAIT}
        return wire.CheckInReply(job=federation.manifest, **kind)

    server.answers.append(mended)
    with serving(server) as port:
        assert take_part(settings(tmp_path, data, port)) == 0
    told = [request.failure for request in server.check_ins if request.failure]
    assert len(told) == 1
    assert "label = 'moon', but no class of the job has that label" in told[0]
    assert server.check_ins[-1].num_examples == 50


def test_a_task_that_cannot_be_done_is_given_up(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    broken = federation.task(1, 0, "a" * 32)
    broken.model.CopyFrom(server.put(b"no frame at all, and long enough for a header"))
    server.answers.extend(
        (
            giving(federation, wait=WAIT),
            giving(federation, task=broken),
            giving(federation, task=federation.task(1, 0, "b" * 32)),
            giving(federation, done=DONE),
        )
    )
    with serving(server) as port:
        assert take_part(settings(tmp_path, data, port)) == 0
    told = [(r.failed, r.failure) for r in server.check_ins if r.failed]
    assert told == [("a" * 32, told[0][1])]
    assert "not a frame we read" in told[0][1]
    assert list(server.results) == ["b" * 32]


def test_a_server_that_comes_late_and_goes_is_waited_for(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    with serving(Misbehaving()) as port:
        pass  # a port that is free again
    server.answers.extend(
        (
            giving(federation, wait=WAIT),
            giving(federation, task=federation.task(1, 0, "a" * 32)),
            giving(federation, done=DONE),
        )
    )
    ended = threading.Event()

    def serve() -> None:
        time.sleep(0.5)
        with serving(server, port=port):
            ended.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert take_part(settings(tmp_path, data, port)) == 0
    finally:
        ended.set()
        thread.join()
    assert list(server.results) == ["a" * 32]


CODE = """
import json, sys
from pathlib import Path
from fedloom.client.logs import log
from fedloom.core.logs import write_logs
from fedloom.client.settings import ClientSettings
from fedloom.client.start import take_part
write_logs(log)
sys.exit(take_part(ClientSettings(**json.loads(sys.argv[1]))))
"""


def command(given: ClientSettings) -> list[str]:
    table = {f.name: getattr(given, f.name) for f in dataclasses.fields(given)}
    return [sys.executable, "-c", CODE, json.dumps(table)]


def client(given: ClientSettings, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(given),
        cwd=cwd,
        env=command_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_waiting_device_is_small_and_stops_at_once(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    def hold(_: wire.CheckInRequest) -> wire.CheckInReply:
        if len(server.check_ins) > 2:
            time.sleep(3)
        return wire.CheckInReply(job=federation.manifest, wait=WAIT)

    server.answers.append(hold)
    with serving(server) as port:
        process = subprocess.Popen(
            command(settings(tmp_path, data, port, wait=20.0)),
            env=command_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: len(server.check_ins) > 2, "three check-ins")
            assert resident(process.pid) < 120e6
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert "libtorch" not in maps
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert "stopped; nothing is left to send" in log


def test_a_result_outlives_its_process(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    server.answers.extend(
        (
            giving(federation, wait=WAIT),
            giving(federation, task=federation.task(1, 0, "a" * 32)),
        )
    )
    server.refusals.extend([("busy", 100.0)] * 3)
    with serving(server) as port:
        given = settings(tmp_path, data, port)
        process = subprocess.Popen(command(given), env=command_environment())
        try:
            until(lambda: len(server.refusals) < 3, "a refusal")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert server.results == {}
        server.refusals.clear()
        server.answers.clear()
        server.answers.append(giving(federation, done=DONE))
        assert take_part(given) == 0
    assert server.results["a" * 32][1] == federation.expected(data, 1, 0)


def test_two_clients_do_not_share_a_folder(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    release = threading.Event()

    def hold(_: wire.CheckInRequest) -> wire.CheckInReply:
        release.wait(30)
        return wire.CheckInReply(job=federation.manifest, done=DONE)

    server.answers.append(hold)
    with serving(server) as port:
        given = settings(tmp_path, data, port)
        first = subprocess.Popen(command(given), env=command_environment())
        try:
            until(lambda: server.check_ins, "a check-in")
            second = client(given, tmp_path)
        finally:
            release.set()
            assert first.wait(30) == 0
    assert second.returncode == 2
    assert f"another client (pid {first.pid}) works in it" in second.stderr


def test_a_stop_in_the_middle_of_training(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    endless = federation.task(1, 0, "a" * 32)
    order = json.loads(endless.order)
    order["task"]["work"]["epochs"] = 10_000_000
    endless.order = json.dumps(order)
    server.answers.extend((giving(federation, wait=WAIT), giving(federation, task=endless)))
    with serving(server) as port:
        given = settings(tmp_path, data, port)
        process = subprocess.Popen(
            command(given), env=command_environment(), stderr=subprocess.PIPE, text=True
        )
        try:
            until((tmp_path / "device" / "task.json").exists, "a task")
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0
        assert "stopped; nothing is left to send" in log
        # the same ticket again at the next start, with an end
        server.answers.clear()
        again = federation.task(1, 0, "a" * 32)
        ready = giving(federation, wait=WAIT), giving(federation, task=again)
        server.answers.extend((*ready, giving(federation, done=DONE)))
        assert take_part(given) == 0
    assert server.results["a" * 32][1] == federation.expected(data, 1, 0)


def test_a_task_that_ends_the_process_is_not_begun_for_ever(
    federation: Federation, server: Misbehaving, data: Path, tmp_path: Path
) -> None:
    task = federation.task(1, 0, "a" * 32)
    server.answers.extend(
        (
            giving(federation, wait=WAIT),
            giving(federation, task=task),
            giving(federation, done=DONE),
        )
    )
    note = {"ticket": "a" * 32, "attempt": 1, "times": 3}  # three times begun, never ended
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "task.json").write_text(json.dumps(note))
    with serving(server) as port:
        assert take_part(settings(tmp_path, data, port)) == 0
    told = [r.failure for r in server.check_ins if r.failed == "a" * 32]
    assert told == ["the process was ended 3 times in this task: too little memory?"]
    assert server.results == {}
