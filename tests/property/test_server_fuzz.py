"""Whatever bytes arrive at a call: a refusal with a reason at most, and the round goes on."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_server import Device, Server, chunk_of, frame_of, header_of, parts_of, serving

from fedloom.protos import federation_pb2 as pb

MISTAKES_OF_THE_SERVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
FRAME = frame_of(1.0)

numbers = st.one_of(st.integers(0, 100), st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1]))
floats = st.one_of(st.floats(), st.sampled_from([1e308, -0.0, float("nan")]))
words = st.one_of(st.text(max_size=20), st.sampled_from(["MINE", "OTHER", "x" * 40, "0" * 64]))
no_waits = st.sampled_from([0.0, -1.0, float("nan"), 1e-9])

requests: dict[str, st.SearchStrategy[Any]] = {
    "CheckIn": st.builds(
        pb.CheckInRequest,
        protocol=st.sampled_from([0, 1, 1, 1, 2**32 - 1]),
        num_examples=numbers,
        wait_seconds=no_waits,
        failed=words.filter(lambda word: word != "MINE"),
        failure=words,
        version=words,
        device=st.builds(pb.Device, machine=words, cores=st.integers(0, 9), memory=numbers),
    ),
    "Renew": st.builds(pb.RenewRequest, csr=st.binary(max_size=40)),
    "QueryUpload": st.builds(pb.QueryUploadRequest, ticket=words),
    "Download": st.builds(pb.DownloadRequest, sha256=words, offset=numbers),
}
headers = st.fixed_dictionaries(
    {},
    optional={
        "ticket": words,
        "size": numbers,
        "sha256": words,
        # Text that is drawn may be any constant of the code under test, and so the job's own codec.
        "codec": words.filter(lambda word: word != "float32"),
        "num_examples": numbers,
        "metrics": st.dictionaries(words, floats, max_size=5),
        "flops": floats,
        "seconds": floats,
        "peak_memory": numbers,
        "offset": numbers,
    },
)
chunks = st.builds(
    chunk_of,
    st.binary(max_size=70),
    numbers,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    terms = {"attempts": 10**6, "quarantine": 0}
    with serving(tmp_path_factory.mktemp("federation"), server=terms) as found:
        yield found


@pytest.fixture(scope="module")
def federation(server: Server) -> Iterator[tuple[Device, str]]:
    """A client that sends anything, and the ticket of one that waits. Then both do their work."""
    mallory, bob = server.device("mallory"), server.device("bob")
    for device in (mallory, bob):
        device.check_in()
    task = bob.task()
    yield mallory, task.ticket
    assert bob.task().ticket == task.ticket
    for device, value in ((mallory, 1.0), (bob, 3.0)):
        device.send(device.task(), value)
    assert server.ended() == {"rounds": 1, "interrupted": False}
    np.testing.assert_array_equal(server.model, np.full(8, 2.0))


def spoiled(data: st.DataObject, message: bytes) -> bytes:
    """A message, perhaps with some of its bytes changed, or cut."""
    if not message or not data.draw(st.booleans()):
        return message
    out = bytearray(message[: data.draw(st.integers(0, len(message)))])
    for at in data.draw(st.lists(st.integers(0, max(len(out) - 1, 0)), max_size=3)):
        if out:
            out[at] = data.draw(st.integers(0, 255))
    return bytes(out)


def check(call: Callable[[], Any]) -> None:
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        assert failed.code() not in MISTAKES_OF_THE_SERVER, failed.details()
        assert failed.code() is not grpc.StatusCode.DEADLINE_EXCEEDED


bounded = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    # The server lives on from example to example: what failed fails again, however it is shrunk.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@bounded
@given(st.sampled_from(sorted(requests)), st.data())
def test_one_message(federation: tuple[Device, str], name: str, data: st.DataObject) -> None:
    mallory, other = federation
    message = data.draw(requests[name])
    for field in ("ticket", "failed"):
        if field in message.DESCRIPTOR.fields_by_name:
            setattr(message, field, named(getattr(message, field), mallory, other))
    sent = spoiled(data, message.SerializeToString())
    if name == "CheckIn" and _gives_up(sent):
        return
    path = f"/fedloom.v1.Federation/{name}"
    if name == "Download":
        call = mallory.channel.unary_stream(path)
        check(lambda: list(call(sent, metadata=mallory.metadata, timeout=20)))
    else:
        unary = mallory.channel.unary_unary(path)
        check(lambda: unary(sent, metadata=mallory.metadata, timeout=20))


def task_of(mallory: Device) -> pb.Task:
    """Its task, which a refusal leaves it or issues anew: without one, nothing is waited for."""
    reply = mallory.check_in()
    assert reply.HasField("task"), "the server asks mallory no more: an earlier message ended that"
    return reply.task


def named(word: str, mallory: Device, other: str) -> str:
    if word == "MINE":
        return task_of(mallory).ticket
    return other if word == "OTHER" else word


def _gives_up(message: bytes) -> bool:
    """Whether chance has made a check-in that waits long."""
    try:
        return not pb.CheckInRequest.FromString(message).wait_seconds < 1
    except Exception:
        return False


def _has_no_delta(message: bytes) -> bool:
    """Whether chance has made a report that there is no delta: who says so is asked no more."""
    try:
        part = pb.UploadPart.FromString(message)
    except Exception:
        return False
    return part.HasField("header") and not part.header.size


@bounded
@given(headers, st.lists(chunks, max_size=3), st.booleans(), st.data())
def test_an_upload(
    federation: tuple[Device, str],
    changes: dict[str, Any],
    more: list[pb.UploadPart],
    whole: bool,
    data: st.DataObject,
) -> None:
    mallory, other = federation
    task = task_of(mallory)
    if "ticket" in changes:
        changes["ticket"] = named(changes["ticket"], mallory, other)
    changes.setdefault("codec", "zip")  # so that none is taken by chance
    parts = [header_of(task, FRAME, **changes), *more]
    if whole:
        parts[1:] = parts_of(task, FRAME)[1:]
    sent = [spoiled(data, part.SerializeToString()) for part in parts]
    if _has_no_delta(sent[0]):
        return
    call = mallory.channel.stream_unary("/fedloom.v1.Federation/Upload")
    check(lambda: call(iter(sent), metadata=mallory.metadata, timeout=20))
