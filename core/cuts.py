"""How many blocks of a split model a device takes: as many as its memory holds.

That clients are cut apart by what they can do is the idea of SplitFT (Shan et al., arXiv
2604.26388); what is counted here, and the choice by it, are our own. With b blocks below the far
ones, T tokens in a batch, W(b) bytes of frozen weights at home, P(b) numbers that train there and
A(b) bytes that the blocks there take for a token, kept for the way back or worked in, a client
takes

    W(b) + T A(b) + L(b) + 4 P(b) (3 + m)

bytes: L of the logits of a language model whose head is at home, and values, gradient, change, and
the m moments of its optimizer (none for SGD, one with momentum, two for AdamW). What Python and
torch take themselves is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.core.split import SplitConfig
from fedloom.core.work import LocalWork, Tier

__all__ = ["MIB", "CutTable", "Need", "widest"]

MIB = 2**20


@dataclass(frozen=True)
class Need:
    """What a client holds that has so many blocks.

    Attributes:
        weights: W, bytes of frozen weights.
        trained: P, numbers that may train.
        per_token: A, bytes that a token takes in the blocks.
        logits: bytes of a token's logits, where a language model's head is at home; else 0.
        most_logits: of the logits that there are at a time.
    """

    weights: int
    trained: int
    per_token: int
    logits: int = 0
    most_logits: int = 0


@dataclass(frozen=True)
class CutTable:
    """What each number of blocks below the far ones needs.

    Attributes:
        least: the smallest number of blocks.
        needs: with `least`, one more, and so on.
        tokens: of an example at most.
    """

    least: int
    needs: tuple[Need, ...]
    tokens: int

    def memory(self, bottom: int, work: LocalWork) -> int:
        """Bytes that a client with `bottom` blocks needs for its `work`."""
        need = self.needs[bottom - self.least]
        tokens = self.tokens * work.batch_size
        taken = need.per_token * tokens + min(need.logits * tokens, need.most_logits)
        return need.weights + taken + work.state_bytes(need.trained)

    def holds(self, memory: int, work: LocalWork) -> bool:
        """Whether `memory` bytes are enough for the fewest blocks."""
        return self.memory(self.least, work) <= memory

    def bottom(self, memory: int, work: LocalWork) -> int:
        """The most blocks that `memory` bytes hold; the fewest where they hold not even those."""
        every = range(self.least, self.least + len(self.needs))
        return max((b for b in every if self.memory(b, work) <= memory), default=self.least)


def widest(split: SplitConfig, tiers: Sequence[Tier]) -> int:
    """The most blocks that any client of a job may have below the far ones."""
    fixed = (tier.bottom for tier in tiers if tier.bottom is not None)
    return max(split.bottom, split.most_bottom, *fixed)
