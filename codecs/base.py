"""What a codec promises."""

from typing import Protocol

from fedloom.core.layout import Layout
from fedloom.core.types import Delta, Payload

__all__ = ["Codec"]


class Codec(Protocol):
    """Packs a delta (or a model) into bytes and back.

    Deterministic: the same delta and seed give the same frame on every machine.
    """

    @property
    def name(self) -> str:
        """The name that payloads carry."""
        ...

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` drives stochastic rounding where the codec has any.

        Raises:
            CodecError: a value cannot be represented (NaN, infinite, out of range).
        """
        ...

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack; the result covers `layout`, or a part of it where the codec drops tensors.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        ...

    def error_bound(self, delta: Delta) -> float:
        """Largest absolute error that `decode(encode(delta))` may have in any element."""
        ...
