"""A server of far blocks that is killed: at most the step that it was at is done again."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from command_forks import Process, start
from split_server import WIDTH, Scaling, serving
from torch import Tensor

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.server.failpoints import VARIABLE
from fedloom.tuning.far import remote_span

PLAN = SpanPlan("tiny", 2, 4, torch.float64, "float64", "float64")
PACKING = packing_of(Lengths(((3, 2),), None))
STEPS = 4


def train(far: RemoteFar) -> list[Tensor]:
    """Gradients at the cut, step by step."""
    found = []
    for step in range(1, STEPS + 1):
        x = (torch.arange(20, dtype=torch.float64).view(1, 5, WIDTH) + step).sin().requires_grad_()
        (remote_span(far, step, x, PACKING) ** 2).sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    return found


@contextmanager
def begun(folder: Path, port: int, failpoint: str) -> Iterator[Process]:
    words, variables = (folder, str(port)), {VARIABLE: failpoint}
    process = start(words, call="split_server:main", variables=variables, stderr=2)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def killed_once(folder: Path, failpoint: str) -> Iterator[int]:
    """A server that dies at a failpoint, and is started again on the same port."""
    with ExitStack() as ending:
        first = ending.enter_context(begun(folder, 0, failpoint))
        assert first.stdout is not None
        port = int(first.stdout.readline())

        def again() -> None:
            assert first.wait(20) == -signal.SIGKILL
            ending.enter_context(begun(folder, port, ""))

        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(again)
            yield port
            done.result(20)


@pytest.mark.parametrize("failpoint", ["leg-arrived:3", "step-done:2", "step-written:2"])
def test_a_server_that_dies_in_a_step(tmp_path: Path, failpoint: str) -> None:
    host = Scaling()
    with serving(host) as server:
        channel = Channel("127.0.0.1", server.port, name="device")
        far = RemoteFar(channel.split, PLAN)
        expected = train(far)
        far.close()
        channel.close()
    with killed_once(tmp_path, failpoint) as port:
        channel = Channel("127.0.0.1", port, name="device")
        far = RemoteFar(channel.split, PLAN, attempts=500, sleep=lambda _: time.sleep(0.05))
        found = train(far)
        assert far.sync() == STEPS
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        far.close()
        channel.close()
