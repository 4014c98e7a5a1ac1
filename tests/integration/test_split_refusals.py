"""What a split session refuses, with its reason; other sessions go on."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from split_server import TERMS, WIDTH, Scaling, Serving, serving
from waiting import until

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.body import word_sum
from fedloom.core.errors import SplitError, TransferError
from fedloom.protos import split_pb2 as pb
from fedloom.protos.split_pb2_grpc import SplitStub

PLAN = SpanPlan("tiny", 2, 4, torch.float64, "float64", "float64")
PACKING = packing_of(Lengths(((3, 2),), None))
SHAPE = (1, 5, WIDTH)
NUMBERS = torch.arange(20, dtype=torch.float64)
BODY = NUMBERS.numpy().tobytes()
NAN, INF = (np.full(20, bad).tobytes() for bad in (np.nan, np.inf))


def opening(**changes: Any) -> Any:
    fields = {
        "protocol": 1,
        "session": bytes(range(16)),
        "plan": "tiny",
        "first": 2,
        "last": 4,
        "dtype": "float64",
        "codec_up": "float64",
        "codec_down": "float64",
        **changes,
    }
    return pb.Up(open=pb.Open(**fields))


def leg(kind: Any = pb.FORWARD, step: int = 0, **changes: Any) -> Any:
    fields = {
        "kind": kind,
        "step": step,
        "train": True,
        "shape": SHAPE,
        "counts": [2],
        "lengths": [3, 2],
        "size": len(BODY),
        **changes,
    }
    return pb.Up(leg=pb.Leg(**fields))


def chunk(data: bytes = BODY, **changes: Any) -> Any:
    return pb.Up(chunk=pb.Chunk(**{"offset": 0, "sum": word_sum(data), "data": data, **changes}))


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving(Scaling()) as found:
        yield found


def talk(port: int, parts: list[Any], name: str = "device") -> list[Any]:
    """Send these messages and take all that comes; the last is the status, where it is none."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = SplitStub
        call = stub(channel).Session(iter(parts), metadata=(("fedloom-client", name),), timeout=10)
        found: list[Any] = []
        try:
            found.extend(call)
        except grpc.RpcError as error:
            found.append(error)
        return found


def reason(error: Any) -> tuple[str, str, str]:
    """Status, reason and text."""
    trailers = dict(error.trailing_metadata())
    return error.code().name, trailers.get("fedloom-reason", ""), error.details()


NO = "INVALID_ARGUMENT"
LATE = "FAILED_PRECONDITION"
OPENINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong-cut": ({"first": 3}, "cut", "blocks 3 to 4; here are 2 to 4"),
    "plan": ({"plan": "other"}, "plan", "plan = 'other'; here it is 'tiny'"),
    "dtype": ({"dtype": "float16"}, "dtype", "dtype = 'float16'; here it is 'float64'"),
    "codec": ({"codec_up": "zip"}, "codec", "codec = 'zip': one of float64, float32"),
    "labels": ({"labels": pb.FAR}, "labels", "labels = far; here they stay at home"),
    "session": ({"session": b"x"}, "protocol", "session = 1 bytes; expected 16"),
    "protocol": ({"protocol": 7}, "protocol", "protocol = 7: this server speaks 1"),
    "ahead": ({"done": pb.Mark(step=3, version=4)}, "resume", "the client has done step 3 at "),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_an_opening_that_cannot_be(server: Serving, name: str) -> None:
    changes, code, text = OPENINGS[name]
    _, found, said = reason(talk(server.port, [opening(**changes)])[-1])
    assert (found, text in said) == (code, True), said
    assert server.counting.refused[code] == 1


GOOD = [leg(), chunk()]
MANY = [n for i in range(70) for n in (pb.Up(evict=pb.Evict(step=i)),)]
LEGS = {
    "no-opening": ([leg()], "order", "a session begins with its opening"),
    "second-open": ([opening(), opening()], "order", "open where a leg may come"),
    "open-within-a-leg": ([opening(), leg(), opening()], "order", "open within a leg"),
    "chunk-alone": ([opening(), chunk()], "order", "chunk where a leg may come"),
    "nothing": ([opening(), pb.Up()], "order", "None where a leg may come"),
    "kind": ([opening(), leg(kind=9)], "order", "kind = 9: not known here"),
    "width": ([opening(), leg(shape=(1, 5, 3))], "shape", r"shape = [1, 5, 3]; expected three"),
    "flat": ([opening(), leg(shape=(20,))], "shape", "shape = [20]; expected three numbers"),
    "lengths": ([opening(), leg(lengths=[3, 3])], "shape", "its lengths make [1, 6, 4]"),
    "counts": ([opening(), leg(counts=[3])], "shape", "counts of 3 examples, and 2 lengths"),
    "no-token": ([opening(), leg(lengths=[5, 0])], "shape", "all at least 1"),
    "read": ([opening(), leg(read=5)], "shape", "read = 5: not known here"),
    "too-long": (
        [opening(), leg(lengths=[17, 2])],
        "length",
        "an example of 17 tokens; at most 16",
    ),
    "tokens": ([opening(), leg(shape=(1, 1 << 20, 4))], "length", "1048576 tokens; a leg has at"),
    "bytes": (
        [opening(), leg(size=1 << 40)],
        "too-large",
        "a body of 1099511627776 bytes; at most",
    ),
    "labels": ([opening(), leg(kind=pb.LOSSES)], "labels", "a leg with labels; they stay at home"),
    "hidden-labels": (
        [opening(), leg(places=pb.Places(target=[1]))],
        "labels",
        "a leg with labels; they stay at home",
    ),
    "damaged": ([opening(), leg(), chunk(sum=1)], "chunk-crc", "the piece at 0 was damaged"),
    "offset": ([opening(), leg(), chunk(offset=4)], "chunk-order", "the next one begins at 0"),
    "cut-short": (
        [opening(), leg(), chunk(BODY[:8])],
        "too-short",
        "the stream ended within a leg",
    ),
    "body": (
        [opening(), leg(size=8), chunk(BODY[:8])],
        "codec",
        "a body of 8 bytes; [1, 5, 4] takes 160",
    ),
    "gradient": (
        [opening(), leg(pb.BACKWARD), chunk()],
        "order",
        "a gradient of step 0, which nev",
    ),
    "gradient-shape": (
        [opening(), *GOOD, leg(pb.BACKWARD, shape=(5, 1, 4)), chunk()],
        "shape",
        "a gradient [5, 1, 4] of step 0; expected [1, 5, 4]",
    ),
    "step-again": (
        [opening(), *GOOD, leg(pb.BACKWARD), chunk(), *GOOD],
        "order",
        "step 0 comes after step 0 is done",
    ),
    "credit": ([opening(), *GOOD * 9], "credit", "5 legs under way; at most 4"),
    "evictions": ([opening(), *GOOD, *MANY], "credit", "more than 64 messages wait"),
}


@pytest.mark.parametrize("name", LEGS)
def test_a_message_that_cannot_be(name: str) -> None:
    parts, code, text = LEGS[name]
    slow = (lambda _: time.sleep(0.3)) if code == "credit" else (lambda _: None)
    with serving(Scaling(before=slow), replace(TERMS, credit=4)) as server:
        status, found, said = reason(talk(server.port, parts)[-1])
        assert (found, text in said) == (code, True), said
        assert status != "UNKNOWN"
        assert server.room.taken == 0
        goes_on(server)


def goes_on(server: Serving, name: str = "other") -> None:
    channel = Channel("127.0.0.1", server.port, name=name)
    far = RemoteFar(channel.split, PLAN)
    out = far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
    assert out.shape == SHAPE
    far.backward(0, out)
    far.close()
    channel.close()


def test_what_is_no_number_is_not_sent(server: Serving) -> None:
    x = NUMBERS.view(SHAPE).clone()
    x[0, 1, 2] = torch.nan
    channel = Channel("127.0.0.1", server.port, name="device")
    far = RemoteFar(channel.split, PLAN)
    with pytest.raises(SplitError, match="float64: a value is not finite") as refused:
        far.forward(1, x, PACKING, train=True)
    assert refused.value.code == "not-finite"
    # The same device goes on with its next step.
    far.forward(2, NUMBERS.view(SHAPE), PACKING, train=True)
    far.backward(2, NUMBERS.view(SHAPE))
    far.close()
    channel.close()


def test_a_far_side_that_diverges_says_so() -> None:
    with serving(Scaling(weight=1e308)) as server:
        channel = Channel("127.0.0.1", server.port, name="device")
        far = RemoteFar(channel.split, PLAN)
        with pytest.raises(SplitError, match="step 0: what came of it is not finite"):
            far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
        far.close()
        channel.close()


def test_without_memory_a_leg_ends_and_the_session_goes_on() -> None:
    def before(_: str) -> None:
        if failing:
            raise MemoryError

    failing = [1]
    with serving(Scaling(before=before)) as server:
        channel = Channel("127.0.0.1", server.port, name="device")
        far = RemoteFar(channel.split, PLAN)
        with pytest.raises(SplitError, match="step 0: no memory for it here") as refused:
            far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
        assert refused.value.code == "memory"
        failing.clear()
        far.forward(1, NUMBERS.view(SHAPE), PACKING, train=True)
        far.backward(1, NUMBERS.view(SHAPE))
        assert server.counting.refused == {}
        far.close()
        channel.close()


def test_what_is_not_held_is_sent_again(server: Serving) -> None:
    channel = Channel("127.0.0.1", server.port, name="device")
    far = RemoteFar(channel.split, PLAN)
    for step in range(3):  # the credit is two: the first step is let go of
        far.forward(step, NUMBERS.view(SHAPE), PACKING, train=True)
    with pytest.raises(SplitError, match="step 0 is not held any more") as refused:
        far.backward(0, NUMBERS.view(SHAPE))
    assert refused.value.code == "evicted"
    far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
    assert torch.equal(far.backward(0, NUMBERS.view(SHAPE)), 2 * NUMBERS.view(SHAPE))
    far.close()
    channel.close()


def test_too_many_sessions() -> None:
    with serving(Scaling(), replace(TERMS, sessions=1)) as server:
        talk(server.port, [opening(), *GOOD])
        error = talk(server.port, [opening(session=bytes(16))], "other")[-1]
        assert reason(error) == (
            "RESOURCE_EXHAUSTED",
            "busy",
            "1 sessions; no more are taken now",
        )


@contextmanager
def held_open(port: int, parts: list[Any], *, reads: bool) -> Iterator[Callable[[], Any]]:
    """A call that sends these messages and then nothing; its end is for the asking."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        more: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for part in parts:
            more.put(part)
        stub: Any = SplitStub
        call = stub(channel).Session(
            iter(more.get, None), metadata=(("fedloom-client", "slow"),), timeout=20
        )
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def read() -> None:
            try:
                for _ in call:
                    pass
                ended.put(None)
            except grpc.RpcError as error:
                ended.put(error)

        thread = threading.Thread(target=read, daemon=True)
        if reads:
            thread.start()
        yield lambda: ended.get(timeout=10)
        more.put(None)
        call.cancel()
        if reads:
            thread.join(10)


def test_a_leg_that_does_not_end(server: Serving) -> None:
    with (
        serving(Scaling(), replace(TERMS, patience=0.3), room=200) as tight,
        held_open(tight.port, [opening(), leg(), chunk(BODY[:8])], reads=True) as end,
    ):
        status, code, text = reason(end())
        assert (status, code) == ("DEADLINE_EXCEEDED", "stalled")
        assert text == "8 of 160 bytes came in 0.3 s"
        assert tight.room.taken == 0
        goes_on(tight)


def test_a_client_that_stops_reading() -> None:
    tokens = 60_000
    big = leg(shape=(1, tokens, WIDTH), counts=[tokens // 15], lengths=[15] * (tokens // 15))
    body = torch.ones(tokens * WIDTH, dtype=torch.float64).numpy().tobytes()
    big.leg.size = len(body)
    parts = [big, *(chunk(body[i : i + (1 << 20)], offset=i) for i in range(0, len(body), 1 << 20))]
    with (
        serving(Scaling(), replace(TERMS, patience=0.5)) as server,
        held_open(server.port, [opening(), *parts, *parts], reads=False),
    ):
        goes_on(server)
        until(lambda: server.counting.refused["stalled"], "the end of who reads nothing")
        assert server.counting.refused == {"stalled": 1}
        assert server.room.taken == 0
        goes_on(server, "third")


def test_no_room_for_a_body(server: Serving) -> None:
    with (
        serving(Scaling(), replace(TERMS, patience=1.0), room=200) as tight,
        held_open(tight.port, [opening(), leg(), chunk(BODY[:8])], reads=True) as end,
    ):
        time.sleep(0.2)
        # 160 of 200 bytes are taken by who is slow; another waits until they are free.
        goes_on(tight)
        assert reason(end())[1] == "stalled"
        error = talk(tight.port, [opening(session=bytes(16)), leg(size=201)])[-1]
        assert reason(error)[1] == "too-large"


def test_who_does_not_say_a_name(server: Serving) -> None:
    error = talk(server.port, [opening()], "")[-1]
    assert isinstance(error, grpc.RpcError)
    assert reason(error)[1] in ("name", "not-enrolled")


def test_a_device_is_told(server: Serving) -> None:
    channel = Channel("127.0.0.1", server.port, name="device")
    far = RemoteFar(channel.split, replace(PLAN, first=1))
    with pytest.raises(SplitError, match="blocks 1 to 4; here are 2 to 4") as refused:
        far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
    assert refused.value.code == "cut"
    channel.close()


def test_nobody_listens() -> None:
    channel = Channel("127.0.0.1", 1, name="device")
    waits: list[float] = []
    far = RemoteFar(
        channel.split,
        PLAN,
        attempts=3,
        sleep=waits.append,
    )
    with pytest.raises(TransferError, match=r"no answer from 127\.0\.0\.1:1"):
        far.forward(0, NUMBERS.view(SHAPE), PACKING, train=True)
    assert len(waits) == 2
    channel.close()
