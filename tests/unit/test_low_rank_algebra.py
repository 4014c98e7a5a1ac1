"""Sums of products in factors, against the dense matrices that they never form."""

import numpy as np
import pytest

from fedloom.strategies.lora.algebra import Factors, Matrix, norm, recompress, summed

D_OUT, D_IN = 7, 5


def drawn(rank: int, seed: int) -> Factors:
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=(D_OUT, rank)), rng.normal(size=(rank, D_IN)))


def dense(factors: Factors) -> Matrix:
    return factors.b @ factors.a


TERMS = [drawn(2, 0), drawn(1, 1), drawn(3, 2)]
WHOLE = sum((dense(term) for term in TERMS), np.zeros((D_OUT, D_IN)))


def test_a_sum_is_one_product() -> None:
    np.testing.assert_allclose(dense(summed(TERMS)), WHOLE, rtol=0, atol=1e-14)
    np.testing.assert_allclose(dense(TERMS[0].scaled(0.25)), 0.25 * dense(TERMS[0]), atol=1e-15)


def test_the_norm_is_that_of_the_product() -> None:
    for term in TERMS:
        assert norm(term) == pytest.approx(np.linalg.norm(dense(term)), rel=1e-12)
    assert norm(Factors(np.zeros((D_OUT, 2)), TERMS[0].a)) == 0


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_recompression_is_the_truncated_dense_decomposition(rank: int) -> None:
    u, s, vt = np.linalg.svd(WHOLE)
    found = recompress(TERMS, rank)
    np.testing.assert_allclose(dense(found.factors), u[:, :rank] * s[:rank] @ vt[:rank], atol=1e-12)
    assert found.kept == pytest.approx(np.sqrt((s[:rank] ** 2).sum()))
    assert found.lost == pytest.approx(np.sqrt((s[rank:] ** 2).sum()))


def test_factors_are_balanced() -> None:
    found = recompress(TERMS, 3).factors
    singular = np.linalg.svd(WHOLE)[1][:3]
    np.testing.assert_allclose(np.square(found.b).sum(0), singular)
    np.testing.assert_allclose(np.square(found.a).sum(1), singular)


def test_room_to_spare_stays_zero_and_loses_nothing() -> None:
    found = recompress([TERMS[1]], 4)
    np.testing.assert_allclose(dense(found.factors), dense(TERMS[1]), atol=1e-14)
    assert found.lost < 1e-14
    wide = recompress(TERMS, 9)  # the sum has rank 5 at most: there are so many inputs
    assert not wide.factors.b[:, 5:].any()
    assert not wide.factors.a[5:].any()
    np.testing.assert_allclose(dense(wide.factors), WHOLE, atol=1e-12)


def test_nothing_compresses_to_nothing() -> None:
    found = recompress([Factors(np.zeros((D_OUT, 2)), np.zeros((2, D_IN)))], 2)
    assert (found.kept, found.lost) == (0.0, 0.0)
    assert not dense(found.factors).any()
