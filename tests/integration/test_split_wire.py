"""A device's far blocks over a stream on loopback: what travels, and what comes of it."""

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from split_server import TERMS, WIDTH, Scaling, Serving, serving
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import SplitError
from fedloom.tuning.far import remote_loss, remote_span
from fedloom.tuning.targets import Places

PLAN = SpanPlan("tiny", 2, 4, torch.float64, "float64", "float64")
PACKING = packing_of(Lengths(((3, 2),), None))
TARGETS = [7_340_033, 7_340_034, 7_340_035]  # numbers that occur nowhere else


def hidden() -> Tensor:
    return torch.arange(20, dtype=torch.float64).view(1, 5, WIDTH) / 8


@contextmanager
def far_of(server: Serving, plan: SpanPlan = PLAN, **options: Any) -> Iterator[RemoteFar]:
    channel = Channel("127.0.0.1", server.port, name="device")
    far = RemoteFar(channel.split, plan, **options)
    try:
        yield far
    finally:
        far.close()
        channel.close()


def test_a_gradient_through_the_stream() -> None:
    host = Scaling(weight=2.0, lr=0.01)
    with serving(host) as server, far_of(server) as far:
        x = hidden().requires_grad_()
        for step in range(3):
            weight = host.weight
            out = remote_span(far, step, x, PACKING)
            assert torch.equal(out, x * weight)
            x.grad = None
            (out * 3).sum().backward()
            # d(3 w x)/dx = 3 w, and w steps by lr 3 sum(x) with sum(x) = (0 + ... + 19) / 8 = 23.75
            assert x.grad is not None
            assert torch.equal(x.grad, torch.full_like(x, 3 * weight))
            assert host.weight == pytest.approx(weight - 0.01 * 3 * 23.75, rel=1e-12)
        assert far.version == host.steps == far.sync() == 3
        with torch.no_grad():
            assert torch.equal(remote_span(far, 9, x, PACKING), x * host.weight)
        # four bodies in and out of 20 numbers of 8 bytes: 3 x 2 legs, and one without a gradient
        assert (far.bytes_up, far.bytes_down) == (7 * 160, 7 * 160)
    assert host.calls == {"join": 1, "forward": 4, "backward": 3, "leave": 1, "evict": 2}
    assert server.room.taken == 0


def test_labels_on_the_far_side() -> None:
    host = Scaling()
    terms, plan = replace(TERMS, labels=True), replace(PLAN, far_labels=True)
    places = Places(np.array([0, 2, 4]), np.array(TARGETS), np.zeros(3, dtype=np.int64))
    with serving(host, terms) as server, far_of(server, plan) as far:
        x = hidden().requires_grad_()
        loss, found = remote_loss(far, 1, x, PACKING, places)
        loss.sum().backward()
        assert loss.tolist() == [47.5]
        assert found.predicted.tolist() == TARGETS
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full_like(x, 2.0))
        assert host.weight == pytest.approx(2.0 - 0.01 * 23.75)


class Recorded:
    """A call whose messages are kept as they are sent."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.sent = channel, bytearray()

    def __call__(
        self, parts: Iterator[Any], begun: Callable[[Callable[[], object]], object]
    ) -> Generator[Any, None, None]:
        def kept() -> Iterator[Any]:
            for part in parts:
                self.sent += part
                yield part

        for part in self.channel.split(kept(), begun):
            self.sent += part
            yield part


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("where", ["home", "far"])
def test_no_message_holds_a_label_that_stays_at_home(where: str) -> None:
    terms = replace(TERMS, labels=where == "far")
    plan = replace(PLAN, far_labels=where == "far")
    with serving(Scaling(), terms) as server:
        channel = Channel("127.0.0.1", server.port, name="device")
        call = Recorded(channel)
        far = RemoteFar(call, plan)
        places = Places(np.array([0, 2, 4]), np.array(TARGETS), np.zeros(3, dtype=np.int64))
        for step in range(3):
            x = hidden().requires_grad_()
            if where == "home":
                logits = remote_span(far, step, x, PACKING).sum(-1).flatten()[places.index]
                ((logits - torch.tensor(TARGETS)) / 2**23).square().sum().backward()
            else:
                remote_loss(far, step, x, PACKING, places)[0].sum().backward()
        if where == "home":
            with pytest.raises(SplitError, match="labels stay at home: the plan says so"):
                far.losses(9, hidden(), PACKING, places, train=True)
        far.close()
        channel.close()
    packed = [struct.pack(form, t) for t in TARGETS for form in ("<i", "<q", "<f", "<d")]
    forms = [*packed, *map(varint, TARGETS)]
    found = [form for form in forms if form in call.sent]
    # The other policy finds them: the test can see what it looks for.
    assert bool(found) == (where == "far")


def test_a_body_of_many_chunks() -> None:
    packing: Packing = packing_of(Lengths(((16,) * 4000,), None))
    x = torch.rand(1, 64_000, WIDTH, dtype=torch.float64)
    with serving(Scaling()) as server, far_of(server) as far:
        assert torch.equal(far.forward(0, x, packing, train=False), x * 2)
        assert far.bytes_up == 2_048_000
