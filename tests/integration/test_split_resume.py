"""Streams of split sessions that break: each step is done once, whatever was lost."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from contract_server import BreakingLine
from split_server import TERMS, WIDTH, Scaling, serving
from torch import Tensor

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.client.stopping import Stop, Stopped
from fedloom.core.errors import SplitError
from fedloom.tuning.far import remote_span

PLAN = SpanPlan("tiny", 2, 4, torch.float64, "float64", "float64")
PACKING = packing_of(Lengths(((16, 16, 8),), None))
STEPS = 4


def batch(step: int) -> Tensor:
    numbers = torch.arange(40 * WIDTH, dtype=torch.float64).view(1, 40, WIDTH)
    return (numbers + step).sin() / 8


def pause(_: float) -> None:
    time.sleep(0.02)


def train(far: RemoteFar, steps: range = range(STEPS)) -> list[Tensor]:
    """Gradients at the cut, step by step."""
    found = []
    for step in steps:
        x = batch(step).requires_grad_()
        (remote_span(far, step, x, PACKING) ** 2).sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    return found


@contextmanager
def over_line(port: int, budget: list[int]) -> Iterator[tuple[RemoteFar, BreakingLine]]:
    line = BreakingLine(port, budget)
    channel = Channel("127.0.0.1", line.port, name="device")
    far = RemoteFar(channel.split, PLAN, patience=5.0, sleep=pause, attempts=100)
    try:
        yield far, line
    finally:
        far.close()
        channel.close()
        line.close()


@pytest.fixture(scope="module")
def unbroken() -> tuple[float, list[Tensor], int]:
    """The weight and the gradients of a run that nothing disturbs, and the bytes of its line."""
    host = Scaling()
    with serving(host) as server, over_line(server.port, []) as (far, line):
        found = train(far)
        return host.weight, found, line.carried


# A step is some 5.6 kB in four legs; a connection begins with some 500 bytes. The breaks fall
# before and after the opening, into each of the legs, and between them.
@pytest.mark.parametrize("first", [30, 300, 1500, 2300, 3000, 3900, 4500, 5300, 6200, 7000, 9000])
def test_breaks_anywhere(unbroken: tuple[float, list[Tensor], int], first: int) -> None:
    weight, gradients, whole = unbroken
    assert whole > STEPS * 4 * 40 * WIDTH * 8
    host = Scaling()
    with serving(host) as server, over_line(server.port, [first, 8000, 9100]) as (far, line):
        found = train(far)
        assert not line.budget
    assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True))
    assert (host.weight, host.steps) == (weight, STEPS)
    assert host.held == {}


def test_the_last_word_after_a_break(unbroken: tuple[float, list[Tensor], int]) -> None:
    # The line holds for what four steps take, and not for what comes after them.
    host = Scaling()
    with serving(host) as server, over_line(server.port, [unbroken[2]]) as (far, line):
        train(far)
        assert far.sync() == STEPS
        assert not line.budget
    assert host.steps == STEPS


@pytest.mark.parametrize("leg", ["forward", "backward"])
def test_a_signal_ends_the_wait_for_an_answer(leg: str) -> None:
    over, stop = threading.Event(), Stop()

    def hang(what: str) -> None:
        if what == leg:
            os.kill(os.getpid(), signal.SIGTERM)
            over.wait()

    with serving(Scaling(before=hang)) as server, over_line(server.port, []) as (far, _):
        with pytest.raises(Stopped), stop.signals(), stop.interruptible():
            train(far, range(1))
        assert stop.is_set()
        far.drop()
        over.set()


def test_a_far_side_that_forgot_is_not_gone_on_with() -> None:
    second = Scaling()
    with serving(second) as other:
        there = Channel("127.0.0.1", other.port, name="device")
        with serving(Scaling()) as server:
            here = Channel("127.0.0.1", server.port, name="device")
            lines = [here]
            far = RemoteFar(lambda *given: lines[0].split(*given), PLAN)
            train(far, range(2))
        lines[0] = there
        with pytest.raises(SplitError, match="the client has done step 1 at"):
            train(far, range(2, 3))
        for channel in (here, there):
            channel.close()
    assert second.steps == 0


def test_a_second_stream_of_a_session_ends_the_first() -> None:
    with serving(Scaling()) as server:
        channel = Channel("127.0.0.1", server.port, name="device")
        far, again = (RemoteFar(channel.split, PLAN) for _ in range(2))
        again._session = far._session
        x = far.forward(0, batch(0), PACKING, train=True)
        again.forward(0, batch(0), PACKING, train=True)
        assert torch.equal(again.backward(0, x), 2 * x)
        assert server.counting.refused == {"superseded": 1}
        again.close()
        channel.close()


def test_the_same_session_of_two_clients_is_two() -> None:
    host = Scaling()
    with serving(host, TERMS) as server:
        channels = [Channel("127.0.0.1", server.port, name=name) for name in ("one", "other")]
        fars = [RemoteFar(c.split, PLAN) for c in channels]
        fars[1]._session = fars[0]._session
        outs = [far.forward(0, batch(0), PACKING, train=True) for far in fars]
        for far, out in zip(fars, outs, strict=True):
            far.backward(0, out)
            far.close()
        assert host.steps == 2
        for channel in channels:
            channel.close()
