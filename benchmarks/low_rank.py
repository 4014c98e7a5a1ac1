"""Recompression of a cohort's LoRA by thin QR, beside the dense decomposition of the same sum.

Usage: ``low_rank.py [D] [RANK] [CLIENTS] [REPEATS]``; prints one JSON line: seconds of each (the
fastest of the repeats, one thread's processor time), their ratio, and how far the results are apart
relative to the sum. FlexLoRA compresses to the adapter's rank; FLoRA to that of its side-car, here
the stack's own, so that nothing is lost. The dense way is that of FlexLoRA's released code: the sum
of the products, its whole singular value decomposition, the leading part.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from fedloom.strategies.lora.algebra import Factors, Matrix, recompress

__all__ = ["Times", "measured"]


@dataclass(frozen=True)
class Times:
    """What recompression takes.

    Attributes:
        flexlora: seconds by thin QR, to the rank of one client.
        flora: seconds by thin QR, to the rank of the stack.
        dense: seconds by the dense decomposition.
        ratio: dense over the slower of the other two.
        apart: Frobenius norm of the difference of the products, relative to the sum.
    """

    flexlora: float
    flora: float
    dense: float
    ratio: float
    apart: float


def measured(d: int = 2048, rank: int = 8, clients: int = 50, repeats: int = 3) -> Times:
    """Seconds for one matrix ``[d, d]`` of so many clients."""
    rng = np.random.default_rng(0)
    terms = [
        Factors(rng.normal(size=(d, rank)) / clients, rng.normal(size=(rank, d)))
        for _ in range(clients)
    ]
    flexlora = _fastest(lambda: recompress(terms, rank), repeats)
    flora = _fastest(lambda: recompress(terms, rank * clients), repeats)
    dense = _fastest(lambda: _dense(terms, rank), 1)
    near, exact = recompress(terms, rank).factors, _dense(terms, rank)
    apart = float(np.linalg.norm(near.b @ near.a - exact) / np.linalg.norm(exact))
    return Times(flexlora, flora, dense, dense / max(flexlora, flora), apart)


def _dense(terms: list[Factors], rank: int) -> Matrix:
    whole = sum((term.b @ term.a for term in terms), np.zeros((1, 1)))
    u, s, vt = np.linalg.svd(whole)
    made: Matrix = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return made


def _fastest(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


if __name__ == "__main__":
    print(json.dumps(asdict(measured(*map(int, sys.argv[1:])))))
