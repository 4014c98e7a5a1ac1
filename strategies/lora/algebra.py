"""Sums of products of two factors, without ever forming a product.

A sum ``sum_k B_k A_k`` is one product of stacked factors, ``[B_1 .. B_K] [A_1; ..; A_K]``. With
thin QR factorisations ``B = Q1 R1`` and ``A^T = Q2 R2`` its singular values are those of
``R1 R2^T``, ``n x n`` for n columns in all: O((d_out + d_in) n^2) in place of the dense
O(d_out d_in min(d)), and in memory no more than the factors. Everything is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factors", "Recompressed", "norm", "recompress", "summed"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix ``B A`` of low rank.

    Attributes:
        b: float64 ``[d_out, n]``.
        a: float64 ``[n, d_in]``.
    """

    b: Matrix
    a: Matrix

    def scaled(self, weight: float) -> "Factors":
        """The matrix times a number."""
        return Factors(weight * self.b, self.a)


@dataclass(frozen=True, eq=False)
class Recompressed:
    """The nearest matrix of a lower rank (Eckart and Young), with its factors balanced.

    Attributes:
        factors: ``b = U_r sqrt(S_r)`` and ``a = sqrt(S_r) V_r^T``: both as large, so that one
            learning rate suits both.
        kept: Frobenius norm of it.
        lost: Frobenius norm of what was cut off.
    """

    factors: Factors
    kept: float
    lost: float


def summed(terms: Sequence[Factors]) -> Factors:
    """The sum of some products, as one product of stacked factors; one term at least."""
    return Factors(
        np.concatenate([term.b for term in terms], axis=1),
        np.concatenate([term.a for term in terms], axis=0),
    )


def norm(factors: Factors) -> float:
    """The Frobenius norm of ``B A``: the root of ``trace((B^T B)(A A^T))``."""
    square = float(((factors.b.T @ factors.b) * (factors.a @ factors.a.T)).sum())
    return float(np.sqrt(max(square, 0.0)))


def recompress(terms: Sequence[Factors], rank: int) -> Recompressed:
    """The nearest matrix of a rank to the sum of some products, by thin QR and a small SVD.

    Args:
        terms: the products; one at least.
        rank: r. Where the sum is of lower rank, the last rows and columns are zero.
    """
    whole = summed(terms)
    q1, r1 = np.linalg.qr(whole.b)
    q2, r2 = np.linalg.qr(whole.a.T)
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    some = min(rank, s.size)
    root = np.sqrt(s[:some])
    b, a = np.zeros((whole.b.shape[0], rank)), np.zeros((rank, whole.a.shape[1]))
    b[:, :some] = (q1 @ u[:, :some]) * root
    a[:some] = root[:, None] * (vt[:some] @ q2.T)
    kept, lost = (float(np.sqrt(np.square(part).sum())) for part in (s[:some], s[some:]))
    return Recompressed(Factors(b, a), kept, lost)
