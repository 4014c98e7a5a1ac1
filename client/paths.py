"""The quickest way through stages that each serve some blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Hop", "Pace", "Served", "quickest"]

_SHARE = 0.2
"""Of the latest call in what a stage is expected to take."""
_CALL = 1e-6
"""Seconds by which one call is better than two that take as long."""


@dataclass(frozen=True)
class Served:
    """A stage that serves some blocks, and any that lie within them.

    Attributes:
        name: where it is.
        first: its first block.
        last: the block after its last.
        throughput: blocks a second that it is thought to do, before it was asked.
        delay: seconds that a call takes beside its blocks.
    """

    name: str
    first: int
    last: int
    throughput: float = field(default=100.0, compare=False)
    delay: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Hop:
    """A part of a path: some blocks of one stage."""

    stage: Served
    first: int
    last: int


@dataclass(eq=False)
class Pace:
    """What a stage is expected to take.

    Attributes:
        block: seconds of one block.
        delay: seconds of a call beside them.
    """

    block: float
    delay: float

    @staticmethod
    def of(stage: Served) -> "Pace":
        """Before it was asked."""
        return Pace(1 / stage.throughput, stage.delay)

    def seconds(self, blocks: int) -> float:
        """Of a call."""
        return _CALL + self.delay + blocks * self.block

    def took(self, hop: Hop, seconds: float) -> None:
        """A call went well in so long."""
        own = max(seconds - self.delay, 0.0) / (hop.last - hop.first)
        self.block += _SHARE * (own - self.block)


def quickest(stages: Mapping[Served, Pace], first: int, last: int) -> Hop | None:
    """The first hop of the path from `first` to `last` that takes least; None without one.

    Backwards from `last`, block by block: of each block the quickest way on from there.
    """
    least: dict[int, float] = {last: 0.0}
    best: dict[int, Hop] = {}
    for block in range(last - 1, first - 1, -1):
        for stage, pace in stages.items():
            if not stage.first <= block < stage.last:
                continue
            for end in range(block + 1, min(stage.last, last) + 1):
                seconds = least.get(end, float("inf")) + pace.seconds(end - block)
                if seconds < least.get(block, float("inf")):
                    least[block], best[block] = seconds, Hop(stage, block, end)
    return best.get(first)
