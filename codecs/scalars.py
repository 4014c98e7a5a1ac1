"""Steps along known directions: a small integer each, and the rest of the delta number by number.

| bytes | what                                                                              |
|-------|-----------------------------------------------------------------------------------|
| 8     | what one step is worth (float64)                                                  |
| 4     | how many scalars follow                                                           |
| ...   | scalars of 1, 8 or 16 bits; of a pool, the number of its direction before each    |
| ...   | the rest, float32 or bfloat16                                                     |

Where a direction points is not sent: it follows from the run, the round and the client.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.dense import BFloat16, Float32
from fedloom.codecs.frame import read_frame, write_frame
from fedloom.core.errors import CodecError, require
from fedloom.core.layout import Layout, Selector
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import Delta, Payload

__all__ = ["Scalars"]

_HEAD = struct.Struct("<dI")
_NO_STEPS = 2**32 - 1


@dataclass(frozen=True)
class Scalars:
    """Scalars of known directions (FedKSeed, DeComFL, FeedSign); a delta without steps goes whole.

    Attributes:
        exact: tensors that are sent number by number beside the scalars.
        bits: of a scalar: 16, 8, or 1 (its sign).
        rest: how those numbers travel: ``float32`` or ``bf16``.
        scheme: which directions, as the learner has it: ``distinct``, ``shared``, ``pool`` or
            ``candidates``.
        pool: directions in the pool, or candidates of a client.
        family: ``rademacher`` or ``gaussian``.

    Raises:
        ConfigError: an option is not one of those.
    """

    exact: Selector = ("head",)
    bits: int = 16
    rest: str = "float32"
    scheme: str = "distinct"
    pool: int = 4096
    family: str = "rademacher"

    name: ClassVar[str] = "scalars"
    sends_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.bits in (1, 8, 16), "bits", self.bits, "1, 8 or 16")
        require(self.rest in ("float32", "bf16"), "rest", self.rest, "float32 or bf16")
        _ = self.directions

    @property
    def directions(self) -> Directions:
        """Which directions are agreed on."""
        return Directions(self.scheme, self.pool, self.family)

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta.

        Raises:
            CodecError: a number is not finite, a scalar is too large for its bits, or the steps
                are along other directions than agreed.
        """
        if delta.steps is None:
            delta = _in_order(delta, self.exact)
        body = self._steps(delta.steps) + self._dense.encode(_rest_of(delta), seed=seed).frame
        return write_frame(self.name, delta.whole, body)

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack; whose directions the steps are along is known to whoever knows the task.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        exact = layout.present(self.exact)
        moved = Layout(tuple(spec for spec in layout if spec.name not in exact))
        body = read_frame(payload, self.name, Layout.concat((exact, moved)))
        if len(body) < _HEAD.size:
            raise CodecError(f"{self.name}: {len(body)} bytes: no header")
        worth, count = _HEAD.unpack_from(body)
        if count == _NO_STEPS:
            return self._decoded(body[_HEAD.size :], Layout.concat((exact, moved)))
        scalars, used = self._scalars(body[_HEAD.size :], count)
        if not np.isfinite(worth):
            raise CodecError(f"{self.name}: a step is worth {worth}", code="not-finite")
        rest = self._decoded(body[_HEAD.size + used :], exact)
        return Delta(rest.layout, rest.vector, Steps(moved, scalars, worth, self.directions))

    def error_bound(self, delta: Delta) -> float:
        """That of the numbers beside the scalars; scalars are exact."""
        return self._dense.error_bound(_rest_of(delta))

    @property
    def _dense(self) -> Float32 | BFloat16:
        return Float32() if self.rest == "float32" else BFloat16()

    def _decoded(self, frame: memoryview, layout: Layout) -> Delta:
        return self._dense.decode(Payload(self._dense.name, bytes(frame)), layout)

    def _steps(self, steps: Steps | None) -> bytes:
        if steps is None:
            return _HEAD.pack(0.0, _NO_STEPS)
        if steps.directions != self.directions:
            text = f"steps along {steps.directions}, agreed on are {self.directions}"
            raise CodecError(f"{self.name}: {text}: give learner and codec the same options")
        scalars, numbers = steps.scalars, b""
        if self.directions.numbered:
            used = np.flatnonzero(scalars)
            scalars, numbers = scalars[used], used.astype("<u2").tobytes()
        return _HEAD.pack(steps.coefficient, len(scalars)) + numbers + self._packed(scalars)

    def _packed(self, scalars: NDArray[np.int32]) -> bytes:
        if self.bits == 1:
            return np.packbits(scalars > 0, bitorder="little").tobytes()
        most = 2 ** (self.bits - 1) - 1
        if np.abs(scalars).max(initial=0) > most:
            text = f"a scalar of {np.abs(scalars).max()} steps; {self.bits} bits hold {most}"
            raise CodecError(f"{self.name}: {text}")
        return scalars.astype(f"<i{self.bits // 8}").tobytes()

    def _scalars(self, body: memoryview, count: int) -> tuple[NDArray[np.int32], int]:
        """The scalars at the start of `body`, and how many bytes they take."""
        wide = 2 * count if self.directions.numbered else 0
        size = wide + (-(-count // 8) if self.bits == 1 else count * self.bits // 8)
        if size > len(body):
            raise CodecError(f"{self.name}: {count} scalars in {len(body)} bytes")
        part = body[wide:size]
        if self.bits == 1:
            signs = np.unpackbits(np.frombuffer(part, np.uint8), count=count, bitorder="little")
            values = signs.astype(np.int32) * 2 - 1
        else:
            values = np.frombuffer(part, f"<i{self.bits // 8}").astype(np.int32)
        if not self.directions.numbered:
            return values, size
        numbers = np.frombuffer(body[:wide], "<u2")
        if count and (int(numbers.max()) >= self.pool or (np.diff(numbers.astype(int)) <= 0).any()):
            raise CodecError(f"{self.name}: directions outside the pool of {self.pool}, or twice")
        scalars = np.zeros(self.pool, dtype=np.int32)
        scalars[numbers] = values
        return scalars, size


def _rest_of(delta: Delta) -> Delta:
    return Delta(delta.layout, delta.vector)


def _in_order(delta: Delta, exact: Selector) -> Delta:
    """A delta without steps, its tensors as they stand where there are some: the exact first."""
    first = delta.layout.present(exact)
    rest = Layout(tuple(spec for spec in delta.layout if spec.name not in first))
    layout = Layout.concat((first, rest))
    return Delta(layout, delta.layout.gather(delta.vector, layout))
