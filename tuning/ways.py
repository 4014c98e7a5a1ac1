"""How a batch is run in the memory at hand: in how many parts, and what is kept on the way.

Nothing here computes: of each way it is known what it takes, and one is picked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COPIES", "SCATTERED", "Way", "best", "least", "said", "smaller"]

COPIES = 5
"""Of a model's numbers in float32 beside those that train: the first one, what was received and its
bytes, what is sent and its bytes."""
SCATTERED = 1.25
"""Memory of activations over their bytes: freed blocks in between that nothing fits into. At most
1.2 was measured, for MiniLM in batches of 1 to 16 texts."""
_AGAIN = 1.5
"""Time of a step whose blocks run again on the way back, over one whose do not: with a frozen
backbone a step is one forward pass and one of the same products backwards."""
_CALL = 40.0
"""Tokens whose products take as long as what a pass costs whatever its size: calls, weights that
are read or unpacked once. Of it depends only whether many small parts or running blocks again is
thought to be quicker."""


@dataclass(frozen=True)
class Way:
    """One way of running a client's batches; all of them give the same up to float association.

    Attributes:
        examples: of a batch in one pass at most.
        parts: passes that the largest batch takes.
        recompute: blocks keep their inputs alone, and run again in the backward pass.
        tokens: of the largest pass.
        bytes: of memory that it takes at most, beyond what the process holds.
    """

    examples: int
    parts: int
    recompute: bool
    tokens: int
    bytes: int

    @property
    def frugal(self) -> bool:
        """Whether it is another way than the plain one."""
        return self.recompute or self.parts > 1

    @property
    def slowness(self) -> float:
        """Time for a token, from the shapes, over that in one large pass that keeps everything."""
        return (1 + _CALL / max(self.tokens, 1)) * (_AGAIN if self.recompute else 1.0)


def best(ways: Sequence[Way], room: int) -> Way | None:
    """The quickest way that fits; None where none does.

    Args:
        ways: all there are.
        room: bytes that may be taken.
    """
    fitting = [way for way in ways if way.bytes <= room]
    return min(fitting, key=lambda way: (way.slowness, way.bytes), default=None)


def least(ways: Sequence[Way]) -> Way:
    """The way that takes the least memory."""
    return min(ways, key=lambda way: (way.bytes, way.slowness))


def smaller(ways: Sequence[Way], failed: Way) -> Way | None:
    """What to try when a way took more than there was: one that takes clearly less, if any does."""
    found = best(ways, failed.bytes * 3 // 4)
    if found is None and least(ways).bytes < failed.bytes:
        return least(ways)
    return found


def said(way: Way) -> str:
    """A way in words."""
    batch = "whole batches"
    if way.parts > 1:
        plural = "s" if way.examples > 1 else ""
        batch = f"batches in {way.parts} parts of {way.examples} example{plural} at most"
    return f"{batch}, blocks run again on the way back" if way.recompute else batch
