"""Randomness that is derived, never global: the same bits on every machine, in any order.

A stream is numpy's Philox4x64-10 (Salmon et al., SC 2011), keyed by BLAKE2b of what the numbers are
for. Only its raw 64-bit words are used for decisions that must repeat everywhere (order of the
data, choice of clients, initial adapters): words are specified bit for bit, distributions of numpy
are not.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require

__all__ = ["Stream", "derive", "stream"]


def derive(seed: int, purpose: str, *, round: int = 0, client: str = "") -> int:
    """A 128-bit key for one purpose of one client in one round of the run with `seed`."""
    text = f"{seed}\0{round}\0{client}\0{purpose}"
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"fedloom/seed/1").digest()
    return int.from_bytes(digest, "little")


def stream(seed: int, purpose: str, *, round: int = 0, client: str = "") -> "Stream":
    """The stream of random numbers that `derive` names.

    >>> stream(7, "order", round=3, client="a").permutation(5).tolist()
    [0, 4, 3, 2, 1]
    """
    return Stream(derive(seed, purpose, round=round, client=client))


class Stream:
    """Random numbers from one key; every method advances the stream."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def words(self, n: int) -> NDArray[np.uint64]:
        """`n` raw 64-bit words."""
        return np.asarray(self._bits.random_raw(n), dtype=np.uint64)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """`n` numbers in [0, 1), multiples of 2^-53: exact on every machine."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A random order of ``0 .. n-1``."""
        return np.argsort(self.words(n), kind="stable").astype(np.int64)

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """`k` different numbers out of ``0 .. n-1``, ascending; O(k) memory whatever `n`.

        Floyd's algorithm (Bentley and Floyd, CACM 30(9), 1987), so that choosing a cohort from
        millions of registered clients costs no more than the cohort.

        Raises:
            ConfigError: there are fewer than `k` to choose from.
        """
        require(0 <= k <= n, "choose", k, f"0 to {n}, as many as there are")
        taken: set[int] = set()
        for j, word in zip(range(n - k, n), self.words(k), strict=True):
            pick = (int(word) * (j + 1)) >> 64
            taken.add(j if pick in taken else pick)
        return np.array(sorted(taken), dtype=np.int64)

    def generator(self) -> np.random.Generator:
        """A numpy generator over the same stream, for distributions (Dirichlet, lognormal, ...)."""
        return np.random.Generator(self._bits)
