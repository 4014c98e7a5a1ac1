"""A result that cannot be used is refused with a reason; the round goes on to the right model."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import (
    LAYOUT,
    Device,
    Refused,
    Server,
    answer,
    chunk_of,
    frame_of,
    header_of,
    parts_of,
    refusal,
    serving,
)

from fedloom.codecs.frame import write_frame
from fedloom.core.layout import Layout, TensorSpec
from fedloom.protos import federation_pb2 as pb

FRAME = frame_of(1.0)
OTHER_LAYOUT = Layout((TensorSpec("w", (4,)), TensorSpec("v", (4,))))
MALFORMED = ("FAILED_PRECONDITION", "protocol")


def raw(*values: float) -> bytes:
    """A frame that no codec of ours would write."""
    vector = np.ones(8, dtype="<f4")
    vector[: len(values)] = values
    return bytes(write_frame("float32", LAYOUT, vector.tobytes()).frame)


def flipped(parts: list[pb.UploadPart]) -> list[pb.UploadPart]:
    data = bytearray(parts[2].chunk.data)
    data[3] ^= 1
    parts[2].chunk.data = bytes(data)
    return parts


# What is sent for a task, and how it is refused; these leave the ticket as it is.
ON_THE_WAY: dict[str, tuple[Callable[[pb.Task], list[Any]], tuple[str, str]]] = {
    "nothing": (lambda t: [], MALFORMED),
    "no message of ours": (lambda t: [b"\xff\xfe"], MALFORMED),
    "an empty message": (lambda t: [b""], MALFORMED),
    "a chunk that was not declared": (lambda t: [chunk_of(FRAME)], MALFORMED),
    "two headers": (lambda t: [header_of(t, FRAME)] * 2, MALFORMED),
    "an empty chunk": (lambda t: [header_of(t, FRAME), chunk_of(b"")], MALFORMED),
    "a digest that is none": (lambda t: parts_of(t, FRAME, sha256="x" * 64), MALFORMED),
    "10,000 metrics": (
        lambda t: parts_of(t, FRAME, metrics={f"m{i}": 1.0 for i in range(10_000)}),
        MALFORMED,
    ),
    "less than declared": (lambda t: parts_of(t, FRAME)[:-1], ("DATA_LOSS", "too-short")),
    "a chunk that was changed": (lambda t: flipped(parts_of(t, FRAME)), ("DATA_LOSS", "chunk-crc")),
    "another digest": (lambda t: parts_of(t, FRAME, sha256="0" * 64), ("DATA_LOSS", "digest")),
    "chunks in another order": (
        lambda t: [header_of(t, FRAME), *parts_of(t, FRAME)[:0:-1]],
        ("OUT_OF_RANGE", "chunk-order"),
    ),
    "a beginning beyond what arrived": (
        lambda t: parts_of(t, FRAME, offset=48),
        ("OUT_OF_RANGE", "chunk-order"),
    ),
    "more than declared": (
        lambda t: [*parts_of(t, FRAME), chunk_of(b"x", len(FRAME))],
        ("INVALID_ARGUMENT", "too-large"),
    ),
    "a chunk above 256 KiB": (
        lambda t: [header_of(t, FRAME), chunk_of(bytes(300_000))],
        ("INVALID_ARGUMENT", "too-large"),
    ),
    "a message above 1 MiB": (
        lambda t: [header_of(t, FRAME), chunk_of(bytes(2 << 20))],
        ("RESOURCE_EXHAUSTED", ""),  # gRPC's own
    ),
}

# What arrives and cannot be used: each costs an attempt.
UNUSABLE: dict[str, tuple[Callable[[pb.Task], list[Any]], str]] = {
    "of 2^63 bytes": (lambda t: parts_of(t, FRAME, size=2**63), "too-large"),
    "above the plan's size": (lambda t: parts_of(t, bytes(5000)), "too-large"),
    "of an unknown codec": (lambda t: parts_of(t, FRAME, codec="zip"), "codec"),
    "no frame": (lambda t: parts_of(t, bytes(60)), "codec"),
    "a frame that was cut": (lambda t: parts_of(t, FRAME[:-1]), "codec"),
    "of another layout": (lambda t: parts_of(t, frame_of(1.0, OTHER_LAYOUT)), "layout"),
    "NaN": (lambda t: parts_of(t, raw(float("nan"))), "not-finite"),
    "infinite": (lambda t: parts_of(t, raw(float("-inf"))), "not-finite"),
    "huge": (lambda t: parts_of(t, raw(3e38, 3e38)), "norm"),
    "above the norm": (lambda t: parts_of(t, frame_of(4.0)), "norm"),  # 4 * sqrt(8) = 11.3
    "of no weight": (lambda t: parts_of(t, FRAME, num_examples=0), "weight"),
    "of a negative weight": (lambda t: parts_of(t, FRAME, num_examples=2**64 - 1), "weight"),
    "above max_examples": (lambda t: parts_of(t, FRAME, num_examples=1001), "weight"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A round that two are asked in, and stays open until both have answered."""
    limits = {"attempts": 1000, "quarantine": 0, "norm_bound": 10.0, "max_examples": 1000}
    with serving(tmp_path_factory.mktemp("federation"), tls=True, rounds=2, server=limits) as found:
        yield found


@pytest.fixture(scope="module")
def devices(server: Server) -> tuple[Device, Device]:
    pair = server.device("ann"), server.device("bob")
    for device in pair:
        device.check_in()
    return pair


@pytest.mark.parametrize("what", ON_THE_WAY)
def test_what_does_not_arrive_whole(what: str, devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    make, expected = ON_THE_WAY[what]
    task = ann.task()
    assert refusal(lambda: ann.upload(make(task))) == expected
    assert ann.task().ticket == task.ticket
    assert ann.query(task.ticket).offset <= len(FRAME)


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_arrives_and_cannot_be_used(what: str, devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    make, code = UNUSABLE[what]
    task = ann.task()
    assert refusal(lambda: ann.upload(make(task))) == ("INVALID_ARGUMENT", code)
    again = ann.task()
    assert (again.attempt, again.ticket != task.ticket) == (task.attempt + 1, True)
    gone = ("NOT_FOUND", "ticket-unknown")
    assert refusal(lambda: ann.send(task)) == refusal(lambda: ann.query(task.ticket)) == gone


def test_what_may_go_better_another_time_says_when(devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    task = ann.task()
    for what in ("less than declared", "a chunk that was changed", "another digest"):
        with pytest.raises(Refused) as caught:
            ann.upload(ON_THE_WAY[what][0](task))
        assert caught.value.after == 1.0
    with pytest.raises(Refused) as caught:
        ann.send(task, 1000.0)
    assert caught.value.after is None


def test_tickets_that_are_not_ones_own(devices: tuple[Device, Device]) -> None:
    ann, bob = devices
    task, other = bob.task(), ("PERMISSION_DENIED", "ticket-other")
    assert refusal(lambda: ann.send(task)) == refusal(lambda: ann.query(task.ticket)) == other
    for ticket in ("", "0" * 32, "../../etc/passwd", "x" * 5000):
        unknown = pb.Task(ticket=ticket)
        found = refusal(lambda: ann.send(unknown)), refusal(lambda: ann.query(unknown.ticket))  # noqa: B023
        assert found == (("NOT_FOUND", "ticket-unknown"),) * 2
    ann.check_in(failed=task.ticket, failure="not mine to give up")
    assert bob.task().ticket == task.ticket


def test_contents_that_are_not_there(devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    model = ann.task().model
    for address in ("", "0" * 64, "../state.sqlite"):
        found = refusal(lambda: ann.download(address))  # noqa: B023
        assert found == ("NOT_FOUND", "no-such-content")
    beyond = refusal(lambda: ann.download(model.sha256, model.size + 1))
    assert beyond == ("OUT_OF_RANGE", "chunk-order")
    assert ann.download(model.sha256, model.size) == b""
    assert len(ann.download(model.sha256, 10)) == model.size - 10


def test_messages_that_are_none(devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    for method in ("Renew", "CheckIn", "QueryUpload"):
        call = ann.channel.unary_unary(f"/fedloom.v1.Federation/{method}")
        assert refusal(lambda: call(b"\xff\xff", timeout=10)) == MALFORMED  # noqa: B023
    down = ann.channel.unary_stream("/fedloom.v1.Federation/Download")
    assert refusal(lambda: list(down(b"\xff", timeout=10))) == MALFORMED
    none = ann.channel.unary_unary("/fedloom.v1.Federation/Nothing")
    assert refusal(lambda: none(b"", timeout=10)) == ("UNIMPLEMENTED", "")


def test_check_ins_that_say_nothing_sensible(devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    assert refusal(lambda: ann.check_in(protocol=2)) == MALFORMED
    for examples in (1001, 2**63, 2**64 - 1):  # no number that the database could not hold
        found = refusal(lambda: ann.check_in(num_examples=examples))  # noqa: B023
        assert found == ("INVALID_ARGUMENT", "weight")
    for seconds in (float("nan"), float("inf"), -1.0):
        assert ann.check_in(seconds).HasField("task")
    assert ann.check_in(num_examples=0).wait.reason == "say how many examples you hold"
    assert ann.check_in(failed="nonsense", failure="\x1b[2J" * 1000).HasField("task")


def test_an_upload_that_is_cut_goes_on_where_it_was(devices: tuple[Device, Device]) -> None:
    ann, _ = devices
    task = ann.task()
    parts = parts_of(task, FRAME)

    def breaking() -> Iterator[pb.UploadPart]:
        yield from parts[:3]
        until = time.monotonic() + 10
        while ann.query(task.ticket).offset < 32:
            assert time.monotonic() < until
        raise ConnectionError("the network is gone")

    assert refusal(lambda: ann.upload(breaking()))[0] in ("CANCELLED", "UNKNOWN")  # ours
    header = header_of(task, FRAME, offset=32, num_examples=1)
    found = [refusal(lambda: ann.upload([header, *parts[3:-1]]))]
    while found[-1][1] == "busy":  # the stream before may hold its right for a moment
        assert len(found) < 1000
        found.append(refusal(lambda: ann.upload([header, *parts[3:-1]])))
    assert found[-1] == ("DATA_LOSS", "too-short")
    assert ann.query(task.ticket).offset == 48


def test_after_all_this_the_correct_updates_alone_make_the_model(
    server: Server, devices: tuple[Device, Device]
) -> None:
    ann, bob = devices
    first, other = ann.task(), bob.task()
    assert not (server.folder / "run" / "checkpoints" / "round-000001.safetensors").exists()
    metrics = {"loss": float("nan"), "vast": 1e308, "kept": 1.0}
    sent = parts_of(first, FRAME, num_examples=1, metrics=metrics)
    receipt = ann.upload(sent)
    assert ann.upload(sent) == receipt == ann.query(first.ticket).receipt.seq
    duplicate = refusal(lambda: ann.send(first, 2.0, 1))
    assert duplicate == ("ALREADY_EXISTS", "duplicate")
    assert not ann.check_in().HasField("task")  # it has done its part

    metrics = {"vast": 1e308, "kept": 3.0}
    bob.upload(parts_of(other, frame_of(3.0), num_examples=3, metrics=metrics))
    second = ann.task()
    assert second.attempt == 1
    assert refusal(lambda: ann.send(first)) == ("NOT_FOUND", "ticket-unknown")  # of another round
    np.testing.assert_array_equal(server.model, np.full(8, 2.5))  # (1 * 1 + 3 * 3) / 4
    (line,) = server.lines
    assert (line["accepted"], line["refused"]) == (2, 0)
    assert line["metrics"]["kept"] == 2.5
    assert "vast" not in line["metrics"]

    ann.send(second, -2.5)
    answer(lambda: bob.send(bob.task(), -2.5))
    assert server.ended() == {"rounds": 2, "interrupted": False}
    np.testing.assert_array_equal(server.model, np.zeros(8))


def test_a_server_without_tls_asks_for_a_name_at_least(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for metadata in ((), (("fedloom-client", "%20"),), (("fedloom-client", "x" * 201),)):
            nobody = server.device("x")
            nobody.metadata = metadata
            status, code = refusal(nobody.check_in)
            assert (status, code) in {
                ("UNAUTHENTICATED", "not-enrolled"),
                ("INVALID_ARGUMENT", "name"),
            }
