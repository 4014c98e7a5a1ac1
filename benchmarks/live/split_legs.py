"""Where a step over a wire spends its time: ``split_legs.py ASKED``; one JSON line.

Timed in turn: a client that computes nothing and goes through the legs of a step, with what of it
is the host's own computation; and a bare gRPC stream that echoes as many bytes in as many pieces.
The overhead is what a step takes beyond its computation and the echo.
"""

import json
import queue
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVarTuple

import grpc
import numpy as np
import torch

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import _OPTIONS
from fedloom.core.body import pieces
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.far import Far
from fedloom.tuning.gang import Batch
from fedloom.tuning.targets import Places
from live.split_rate import server_of
from live.split_server import ECHO, SPENT
from live.split_setup import Asked, Sides, far_of

__all__ = ["Legs", "measure"]

Given = TypeVarTuple("Given")


class Legs:
    """A client's legs of a step, without a client's computation.

    Args:
        asked: what is measured.
        width: of hidden states.
    """

    def __init__(self, asked: Asked, width: int) -> None:
        draws = torch.Generator().manual_seed(1)
        self._far_labels = asked.labels == "far"
        self._packing = packing_of(Lengths(((asked.tokens,) * asked.batch,), None))
        shape = (1, asked.batch * asked.tokens, width)
        self.hidden = torch.empty(shape).normal_(generator=draws)
        self.grad = torch.empty(shape).normal_(std=1e-4, generator=draws)
        many = np.arange(asked.batch)
        self._places = Places(many, many % 2, np.zeros(asked.batch, dtype=np.int64))

    @property
    def count(self) -> int:
        """Bodies that go up in a step; as many come down."""
        return 1 if self._far_labels else 2

    def batch(self) -> Batch:
        """What goes up first."""
        return Batch(self.hidden, self._packing, self._places if self._far_labels else None)

    def step(self, far: Far, step: int) -> None:
        """One step."""
        if self._far_labels:
            far.losses(step, self.hidden, self._packing, self._places, train=True)
            return
        far.forward(step, self.hidden, self._packing, train=True)
        far.backward(step, self.grad)


class _Echo:
    """A stream of bytes that come back."""

    def __init__(self, port: int) -> None:
        self._up: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
        self._down = self._channel.stream_stream(ECHO)(self._parts())
        self._spent = self._channel.unary_unary(SPENT)

    def _parts(self) -> Iterator[bytes]:
        while (part := self._up.get()) is not None:
            yield part

    def legs(self, parts: list[bytes], count: int) -> None:
        """There and back, so often."""
        for _ in range(count):
            for part in parts:
                self._up.put(part)
            self._up.put(b"e")
            while len(next(self._down)) > 1:
                pass

    def spent(self) -> float:
        """Seconds that the host of that server has computed so far."""
        return float(struct.unpack("<d", self._spent(b""))[0])

    def close(self) -> None:
        self._up.put(None)
        self._channel.close()


def measure(asked: Asked) -> dict[str, float]:
    """Milliseconds of a step live, of its computation and of its bytes; medians."""
    with server_of(asked) as (port, _):
        sides = Sides.load(asked)
        legs, echo = Legs(asked, sides.width), _Echo(port)
        body = codec_named(asked.codec).nbytes(legs.hidden.numel())
        parts = [bytes(part) for _, _, part in pieces(bytes(body))]
        live, compute, bare = [], [], []
        with far_of(port, sides.plan()) as far:
            for step in range(1, asked.repeats + 3):  # two to warm up
                before = echo.spent()
                live.append(_ms(legs.step, far, step))
                compute.append(1000 * (echo.spent() - before))
                bare.append(_ms(echo.legs, parts, legs.count))
        sent = far.bytes_up + far.bytes_down
        echo.close()
    over = [a - b - c for a, b, c in zip(live, compute, bare, strict=True)]
    return {
        "live_ms": statistics.median(live[2:]),
        "compute_ms": statistics.median(compute[2:]),
        "echo_ms": statistics.median(bare[2:]),
        "overhead_ms": statistics.median(over[2:]),
        "bytes": sent / (asked.repeats + 2),
    }


def _ms(call: Callable[[*Given], object], *given: *Given) -> float:
    began = time.perf_counter()
    call(*given)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(measure(Asked.from_json(sys.argv[1]))))
