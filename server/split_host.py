"""What the split service asks of the far blocks that it serves."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["Coder", "Coders", "Host", "Terms"]


class Coder(Protocol):
    """How bodies of one direction travel."""

    def encode(self, tensor: Tensor, *, step: int) -> bytes:
        """The body that stands for a tensor."""
        ...

    def decode(self, body: memoryview, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The tensor that a body stands for.

        Raises:
            CodecError: it is no body of this shape.
        """
        ...


Coders: TypeAlias = Callable[[str], Coder]
"""Coders by name; raises `ConfigError` for a name that it does not know."""


@dataclass(frozen=True)
class Terms:
    """What a far side takes.

    Attributes:
        plan: what is worked on.
        first: the first far block.
        last: the block after the last far one.
        width: of hidden states.
        labels: labels may come; else they stay at home.
        dtypes: of hidden states.
        credit: legs of a session that may be under way, and its steps that are held for their
            gradients.
        max_bytes: of a body.
        max_length: tokens of an example.
        max_tokens: of a leg.
        patience: seconds in which a leg that has begun arrives, and an answer is read.
        idle: seconds between legs after which a stream is ended; its session is kept.
        keep: seconds for which a session without a stream is kept.
        sessions: kept at once, of all clients.
    """

    plan: str
    first: int
    last: int
    width: int
    labels: bool = False
    dtypes: Collection[str] = ("float32", "bfloat16")
    credit: int = 2
    max_bytes: int = 64 << 20
    max_length: int = 4096
    max_tokens: int = 1 << 16
    patience: float = 30.0
    idle: float = 3600.0
    keep: float = 3600.0
    sessions: int = 1024


class Host(Protocol):
    """Far blocks. One thread calls it; a key names a session."""

    @property
    def version(self) -> int:
        """How often the far tensors have stepped."""
        ...

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """As `fedloom.tuning.far.Far.forward`."""
        ...

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        """As `fedloom.tuning.far.Far.backward`.

        Raises:
            SplitError: the step is not held (``evicted``).
        """
        ...

    def losses(
        self,
        key: str,
        step: int,
        hidden: Tensor,
        packing: Packing,
        places: Places,
        *,
        train: bool,
    ) -> tuple[FarLosses, Tensor]:
        """As `fedloom.tuning.far.Far.losses`."""
        ...

    def evict(self, key: str, step: int | None = None) -> None:
        """Let go of a step that no gradient will be asked for, or of all of a session's."""
        ...

    def leave(self, key: str) -> None:
        """A session is over."""
        ...
