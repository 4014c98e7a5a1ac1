"""What the split service asks of the far blocks that it serves."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.tuning.activation_codecs import ACTIVATION_CODECS
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["Host", "Terms"]


@dataclass(frozen=True)
class Terms:
    """What a far side takes.

    Attributes:
        plan: what is worked on.
        first: the first far block.
        last: the block after the last far one.
        width: of hidden states.
        labels: labels may come; else they stay at home.
        dtype: that is computed in.
        codecs: of bodies.
        credit: legs of a session that may be under way, and its steps that are held for their
            gradients.
        max_bytes: of a body.
        max_length: tokens of an example.
        max_tokens: of a leg.
        patience: seconds in which a leg that has begun arrives, and an answer is read.
        idle: seconds between legs after which a stream is ended; its session is kept.
        keep: seconds for which a session without a stream is kept.
        sessions: kept at once, of all clients.
        within: a session may be of fewer blocks than all of these.
        alone: a client's new session ends its older ones.
    """

    plan: str
    first: int
    last: int
    width: int
    labels: bool = False
    dtype: str = "float32"
    codecs: Collection[str] = tuple(ACTIVATION_CODECS)
    credit: int = 2
    max_bytes: int = 64 << 20
    max_length: int = 4096
    max_tokens: int = 1 << 16
    patience: float = 30.0
    idle: float = 3600.0
    keep: float = 3600.0
    sessions: int = 1024
    within: bool = False
    alone: bool = False


class Host(Protocol):
    """Far blocks. A key names a session; one session is called by one thread at a time."""

    def version(self, key: str) -> int:
        """How often the tensors that a session works with have stepped."""
        ...

    def lane(self, key: str) -> str:
        """Name of the tensors that a session works with: its own, or those that all share."""
        ...

    def join(self, key: str) -> None:
        """A session begins.

        Raises:
            SplitError: it cannot now (``busy``).
        """
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

    def kept(self, key: str) -> dict[str, Tensor]:
        """All that steps have changed of the tensors that a session works with; not copies."""
        ...

    def moved(self, key: str) -> Tensor:
        """What the tensors that a session works with have moved so far, float32 ``[1, P]``."""
        ...

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        """Go on with a session of a process that ended; it has joined.

        Args:
            key: of the session; empty for the tensors that all share, before sessions join.
            state: what `kept` gave after the latest step of these tensors.
            done: the session's last step.

        Raises:
            LayoutError: this host is another than that of that process.
        """
        ...

    def leave(self, key: str) -> None:
        """A session is over."""
        ...
