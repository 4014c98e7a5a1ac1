"""Split a cohort into chunks that are trained at once.

Clients of similar size go together, so that little is padded and nobody waits. How many fit is
decided by memory, not by the user; the result does not depend on it beyond float association.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.core.types import LocalWork

__all__ = ["Size", "chunks", "size_of"]


@dataclass(frozen=True, order=True)
class Size:
    """How large one client's round is.

    Attributes:
        steps: optimizer steps.
        tokens: tokens of an average batch.
    """

    steps: int
    tokens: int


def size_of(examples: int, tokens: int, work: LocalWork) -> Size:
    """The size of a client with so many examples, of so many tokens in all."""
    used = min(examples, work.max_examples or examples)
    batch = min(used, work.batch_size)
    steps = work.steps or work.epochs * -(-used // work.batch_size)
    return Size(steps, -(-tokens * batch // max(examples, 1)))


def chunks(sizes: Sequence[Size], *, most: int, budget: int, split: int = 1) -> list[list[int]]:
    """Indices of the clients of each chunk, largest first.

    Args:
        sizes: one per client.
        most: clients in a chunk at most.
        budget: tokens in a chunk's step at most, padding included (one client always fits).
        split: chunks at least, where that leaves two clients in each.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], -i), reverse=True)
    parts = max(min(split, len(order) // 2), 1)
    out: list[list[int]] = []
    widest = share = 0
    for place, i in enumerate(order):
        grown = max(widest, sizes[i].tokens)
        full = bool(out) and (
            len(out[-1]) >= min(most, share) or grown * (len(out[-1]) + 1) > budget
        )
        if not out or full:
            share = -(-(len(order) - place) // max(parts - len(out), 1))
            out.append([])
            grown = sizes[i].tokens
        out[-1].append(i)
        widest = grown
    return out
