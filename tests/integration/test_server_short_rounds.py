"""Rounds in which not everybody answers: they end, and with what came."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from live_server import Device, Refused, Server, frame_of, parts_of, refusal, serving
from waiting import until

from fedloom.cli import main
from fedloom.protos import federation_pb2 as pb

BENCHED = ("FAILED_PRECONDITION", "benched")
OVER = ("FAILED_PRECONDITION", "round-over")
FORGOTTEN = ("NOT_FOUND", "ticket-unknown")  # the next round has begun, or there is none


def gather(server: Server, *names: str) -> list[Device]:
    devices = [server.device(name) for name in names]
    for device in devices:
        device.check_in()
    return devices


def spoil(device: Device, times: int) -> pb.Task:
    """Send so many updates that cannot be used; the last task."""
    for _ in range(times):
        task = device.task()
        found = refusal(lambda: device.upload(parts_of(task, bytes(60))))  # noqa: B023
        assert found == ("INVALID_ARGUMENT", "codec")
    return task


def model(server: Server, value: float) -> None:
    np.testing.assert_array_equal(server.model, np.full(8, value))


def test_three_refusals_bench_a_client_for_the_round(tmp_path: Path) -> None:
    with serving(tmp_path, rounds=2) as server:
        ann, bob = gather(server, "ann", "bob")
        task = spoil(ann, 3)
        assert task.attempt == 3
        assert refusal(lambda: ann.send(task)) == BENCHED
        assert ann.check_in().wait.reason == "no work yet"
        bob.send(bob.task(), 2.0)
        second = ann.task()  # the next round is another matter
        assert second.attempt == 1
        ann.send(second, 4.0)
        bob.send(bob.task(), 0.0)
        assert server.ended()["rounds"] == 2
        model(server, 4.0)  # 2, then (4 + 0) / 2 more
        assert [(line["accepted"], line["refused"]) for line in server.lines] == [(1, 1), (2, 0)]
        assert "the payload cannot be decoded" in server.lines[0]["refusals"][0]["reason"]


def test_a_client_without_a_result_is_not_asked_again(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        ann, bob = gather(server, "ann", "bob")
        task = ann.task()
        nothing = refusal(lambda: ann.upload(parts_of(task, b"", metrics={"loss": 7.0})))
        assert nothing == ("INVALID_ARGUMENT", "no-delta")
        assert refusal(lambda: ann.send(task)) == BENCHED
        bob.send(bob.task(), 2.0)
        server.ended()
        model(server, 2.0)


def test_refusals_in_a_row_end_in_quarantine_until_the_operator_clears_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, tls=True, rounds=3, server={"quarantine": 4}) as server:
        ann, bob = gather(server, "ann", "bob")
        spoil(ann, 3)
        bob.send(bob.task(), 1.0)
        task = spoil(ann, 1)  # the fourth in a row, in the second round
        with pytest.raises(Refused) as caught:
            ann.check_in()
        assert (caught.value.status, caught.value.code) == ("PERMISSION_DENIED", "quarantined")
        assert caught.value.after == 60.0
        assert "quarantined after 4 refusals: codec" in caught.value.text
        assert refusal(lambda: ann.send(task))[1] in ("benched", "ticket-unknown")
        bob.send(bob.task(), 1.0)  # the round does not wait for ann
        until = time.monotonic() + 20
        while len(server.lines) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)

        folder = str(server.state)
        assert main(["clients", "--in", folder]) == 0
        assert "quarantined" in capsys.readouterr().out
        assert main(["clients", "--in", folder, "--clear", "ann"]) == 0
        ann.send(ann.task(), 3.0)
        bob.send(bob.task(), 1.0)
        server.ended()
        model(server, 4.0)  # 1 + 1 + (3 + 1) / 2


def test_a_client_that_gives_up_frees_the_round(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        ann, bob = gather(server, "ann", "bob")
        task = ann.task()
        assert ann.check_in(failed=task.ticket, failure="no\x1b[2J\nmemory").HasField("wait")
        assert refusal(lambda: ann.send(task)) == BENCHED
        bob.send(bob.task(), 2.0)
        server.ended()
        model(server, 2.0)
        (refused,) = server.lines[0]["refusals"]
        assert refused == {"client": "ann", "reason": "the client gave up: no[2J memory"}


def test_what_comes_after_the_goal_is_too_late(tmp_path: Path) -> None:
    with serving(tmp_path, server={"over_select": 1.5, "min_clients": 3}) as server:
        devices = gather(server, "ann", "bob", "cy")
        tasks = [device.task() for device in devices]
        for device, task, value in zip(devices[:2], tasks[:2], (1.0, 2.0), strict=True):
            device.send(task, value)
        late = devices[2]
        until = time.monotonic() + 20
        while late.check_in().HasField("task"):
            assert time.monotonic() < until
        assert refusal(lambda: late.send(tasks[2], 100.0)) in (OVER, FORGOTTEN)
        server.ended()
        model(server, 1.5)
        assert server.lines[0]["accepted"] == 2


def test_below_the_minimum_others_are_asked_and_what_came_counts(tmp_path: Path) -> None:
    terms = {"minimum": 1.0, "patience": 0.1, "min_clients": 3}
    with serving(tmp_path, server=terms) as server:
        devices = {device.name: device for device in gather(server, "ann", "bob", "cy")}
        first = {name: found for name, d in devices.items() if (found := asked(d)) is not None}
        (third,) = devices.keys() - first.keys()
        kept, gone = first
        receipt = devices[kept].send(first[kept], 1.0)
        devices[gone].check_in(failed=first[gone].ticket, failure="no memory")
        task = devices[third].task()  # not asked at first
        assert devices[kept].query(first[kept].ticket).receipt.seq == receipt
        assert devices[kept].send(first[kept], 1.0) == receipt
        late = refusal(lambda: devices[gone].send(first[gone]))
        assert late == FORGOTTEN
        devices[third].send(task, 3.0)
        server.ended()
        model(server, 2.0)
        assert server.lines[0]["accepted"] == 2


def asked(device: Device) -> pb.Task | None:
    reply = device.check_in(0.3)
    return reply.task if reply.HasField("task") else None


def test_a_client_that_vanishes_is_not_waited_for(tmp_path: Path) -> None:
    terms = {"patience": 0.3, "min_clients": 3}
    with serving(tmp_path, clients_per_round=3, server=terms) as server:
        ann, bob, gone = gather(server, "ann", "bob", "gone")
        parts = parts_of(gone.task(), frame_of(9.0))

        def vanishing() -> Iterator[pb.UploadPart]:
            yield from itertools.islice(parts, 2)
            gone.channel.close()

        with pytest.raises((Refused, ValueError)):
            gone.upload(vanishing())
        server.devices.remove(gone)
        ann.send(ann.task(), 1.0)
        bob.send(bob.task(), 3.0)
        for device in (ann, bob):
            device.hears_the_end()
        model(server, 2.0)


def test_nobody_answers_at_all(tmp_path: Path) -> None:
    terms = {"patience": 0.1, "longest": 0.3, "attempts": 1}
    with serving(tmp_path, rounds=2, server=terms) as server:
        ann, bob = gather(server, "ann", "bob")
        first = ann.task()
        saved = server.folder / "run" / "checkpoints" / "round-000001.safetensors"
        until(saved.exists, "a round without answers")  # asked twice, then it ends with nothing
        assert server.lines[0]["accepted"] == 0
        model(server, 0.0)
        assert refusal(lambda: ann.send(first)) in (OVER, FORGOTTEN)
        for device in (ann, bob):  # each as often as it takes, in the second round
            until(lambda: server.lines[1:] or sent(device), "a second round")  # noqa: B023
        server.ended()
        assert server.lines[1]["accepted"] <= 2


def sent(device: Device) -> bool:
    """Whether a device has a task, and its update is taken in time."""
    try:
        device.send(device.task(), 2.0)
    except (Refused, AssertionError):
        return False
    return True


def test_what_clients_measure_cannot_end_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, server={"evaluate_clients": 2, "max_examples": 10}) as server:
        qualities = {"ann": 1.0, "bob": 3.0}
        devices = [server.device(name) for name in qualities]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda device: measure(device, qualities[device.name]), devices))
        server.ended()
        assert server.lines[0]["evaluation"] == {"clients_accuracy": 2.0}


def measure(device: Device, quality: float) -> None:
    """Train once, and evaluate, as often as that is asked, until it has been asked afterwards."""
    trained = False
    while True:
        task = device.task()
        if task.kind == "train":
            device.send(task, 1.0)
            trained = True
            continue
        lie = parts_of(task, b"", num_examples=11, metrics={"accuracy": 0.5})
        found = refusal(lambda: device.upload(lie))  # noqa: B023
        assert found == ("INVALID_ARGUMENT", "weight")
        metrics = {"accuracy": quality, "vast": 1e308, "none": float("nan")}
        device.upload(parts_of(task, b"", num_examples=5, metrics=metrics))
        if trained:
            return
