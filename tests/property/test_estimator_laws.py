"""What mathematics says of estimates from random directions holds for ours.

An estimate is ``mean_i s_i z_i`` with slopes ``s_i = g . z_i``: of a known gradient g here, so that
nothing but the directions, the scalars' steps and the replay is looked at.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.gaussian import Gaussian
from fedloom.core.perturbation_keys import DIRECTIONS, keys, run_id
from fedloom.core.perturbations import Family, Rademacher
from fedloom.core.replay import apply, entries_of, replay
from fedloom.core.scalars import quantize, step_for
from fedloom.core.steps import Directions

SIZE = 4000
STEP = 2.0**-10  # of a slope: 32 times finer than what would be seen
FAMILIES: list[Family] = [Rademacher(), Gaussian()]

Floats = NDArray[np.float64]


def gradient(size: int = SIZE) -> Floats:
    """A vector of length one without structure."""
    drawn = np.random.default_rng(5).standard_normal(size)
    return np.asarray(drawn / np.linalg.norm(drawn))


def drawn(count: int, *, round: int = 0, owner: int = 1) -> list[int]:
    return keys(run_id(0), count, round=round, client=owner)


def vectors(names: Sequence[int], size: int, family: Family = FAMILIES[0]) -> NDArray[np.float32]:
    """All directions of some groups, ``[8 groups, size]``."""
    rows = np.empty((DIRECTIONS * len(names), size), dtype=np.float32)
    for i, name in enumerate(names):
        family.fill(rows[DIRECTIONS * i : DIRECTIONS * (i + 1)], name, range(DIRECTIONS))
    return rows


def slopes(names: Sequence[int], g: Floats, family: Family = FAMILIES[0]) -> Floats:
    """Of the loss ``g . w`` along every direction."""
    found: Floats = np.concatenate([vectors([name], len(g), family) @ g for name in names])
    return found


def estimate(
    names: Sequence[int], steps: NDArray[np.integer[Any]], size: int, family: Family = FAMILIES[0]
) -> Floats:
    """The replay of integer slopes; their scale is left out."""
    total = replay(entries_of(names, steps), size, family=family)
    return np.asarray(total * family.unit, dtype=np.float64)


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(("family", "count"), [(Rademacher(), 200_000), (Gaussian(), 40_000)])
def test_the_estimate_of_a_quadratics_gradient_is_unbiased(family: Family, count: int) -> None:
    # f(w) = w A w / 2 - b w at w = 1: central differences have no error but rounding, whatever h.
    # ``mean s z - g`` has variance (d + 1) |g|^2 / n for Gaussians, (d - 1) |g|^2 / n for signs.
    size, h = 64, 0.1
    draws = np.random.default_rng(7)
    half = draws.standard_normal((size, size))
    a, b, w = half @ half.T / size, draws.standard_normal(size), np.ones(size)

    def f(at: Floats) -> Floats:
        return np.asarray(((at @ a) * at).sum(axis=1) / 2 - at @ b)

    names = drawn(count)
    z = vectors(names, size, family).astype(np.float64)
    found = (f(w + h * z) - f(w - h * z)) / (2 * h)
    mean = estimate(names, quantize(found, STEP * 4), size, family) * STEP * 4 / count
    truth = a @ w - b
    assert np.linalg.norm(mean - truth) / np.linalg.norm(truth) < 1.5 * math.sqrt(size / count)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("count", "repeats"), [(64, 60), (512, 15), (2048, 6)])
def test_the_cosine_law(family: Family, count: int, repeats: int) -> None:
    # The component along g is 1, what is across has variance (d - 1) / N and that along it 2 / N:
    # the cosine is sqrt(N / (N + d + 1)). A single one varies by 1 / sqrt(d) = 0.016.
    g = gradient()
    found = []
    for round in range(repeats):
        names = drawn(count, round=round)
        steps = quantize(slopes(names, g, family), STEP)
        found.append(cosine(estimate(names, steps, SIZE, family), g))
    assert np.mean(found) == pytest.approx(math.sqrt(count / (count + SIZE + 1)), rel=0.05)


def test_clients_that_share_directions_count_as_one() -> None:
    # 16 clients of one gradient, 8 directions each. Distinct: N = 128, cosine 0.1761. Shared: the
    # clients' scalars agree and N = 8, cosine 0.0447. The ratio is 3.94; sqrt(16) for large d.
    g, clients, each = gradient(), [f"client {i}" for i in range(16)], 8
    found = {}
    for scheme, repeats in (("distinct", 40), ("shared", 400)):
        agreed, got = Directions(scheme), []
        for round in range(repeats):
            total = np.zeros(SIZE)
            for owner in sorted({agreed.owner(client) for client in clients}):
                names = agreed.keys(3, round=round, owner=owner, count=each)
                total += estimate(names, quantize(slopes(names, g), STEP), SIZE)
            got.append(cosine(total, g))
        found[scheme] = float(np.mean(got))
    expected = 4 * math.sqrt((8 + SIZE + 1) / (128 + SIZE + 1))
    assert found["distinct"] / found["shared"] == pytest.approx(expected, rel=0.05)


def test_what_coarse_scalars_cost() -> None:
    # Eight bits: nothing. One bit: E[sign(s) z] = sqrt(2 / pi) g, so that with d / N = 1.953 the
    # cosine is c / sqrt(c^2 + d / N) = 0.4958 for c^2 = 2 / pi, against 0.5818 for floats.
    g, count = gradient(), 2048
    whole: list[float] = []
    eight: list[float] = []
    one: list[float] = []
    for round in range(4):
        names = drawn(count, round=round)
        s = slopes(names, g)
        coarse = quantize(s, 256 * step_for(float(np.abs(s).max())))
        assert int(np.abs(coarse).max()) <= 128
        for found, steps in (
            (whole, quantize(s, STEP)),
            (eight, coarse),
            (one, np.where(s > 0, 1, -1)),
        ):
            found.append(cosine(estimate(names, steps, SIZE), g))
    assert np.mean(whole) == pytest.approx(0.5818, abs=0.01)
    assert np.mean(eight) == pytest.approx(float(np.mean(whole)), abs=0.002)
    assert np.mean(one) == pytest.approx(0.4958, abs=0.01)


@pytest.mark.parametrize(("share", "gain"), [(0.1, 3.25), (0.2, 2.18)])
def test_the_gain_of_fwdllms_filter(share: float, gain: float) -> None:
    # Kept are the directions whose cosine with the last gradient u is in the top share q. Along u
    # the estimate grows by E[x^2 | x > a] = 1 + a phi(a) / q of a normal x: a = 1.2816 gives
    # 1 + 1.2816 * 0.17550 / 0.1 = 3.249, a = 0.8416 gives 1 + 0.8416 * 0.27996 / 0.2 = 2.178.
    # Across u nothing is chosen. FwdLLM (Xu et al., USENIX ATC 2024, section 3.4) keeps 20 %, its
    # released code 10 %.
    size, count = 256, 160_000
    old, other = gradient(size), np.random.default_rng(6).standard_normal(size)
    across = other - (other @ old) * old
    across /= np.linalg.norm(across)
    names = drawn(count)
    along = slopes(names, old)
    kept = along > np.quantile(along, 1 - share)
    steps = np.where(kept, quantize(slopes(names, old + across), STEP), 0)
    mean = estimate(names, steps, size) * STEP / kept.sum()
    assert mean @ old == pytest.approx(gain, rel=0.05)
    assert mean @ across == pytest.approx(1.0, rel=0.05)


def test_fwdllms_statistic_measures_the_gradients_length() -> None:
    # Half the squared difference of two means over n / 2 directions, averaged over coordinates. A
    # coordinate of s z has variance |g|^2 - g_j^2, so the statistic is 2 |g|^2 / n (1 - 1 / d).
    g, count = 3 * gradient(), 128
    found = []
    for round in range(80):
        names = drawn(count, round=round)
        steps = quantize(slopes(names, g), STEP)
        halves = len(names) // 2
        first = estimate(names[:halves], steps[: count // 2], SIZE)
        second = estimate(names[halves:], steps[count // 2 :], SIZE)
        found.append(np.mean(((first - second) * STEP / (count // 2)) ** 2) / 2)
    assert np.mean(found) == pytest.approx(2 * 9 / count, rel=0.05)


def test_a_replay_in_half_precision_loses_the_update() -> None:
    # FedKSeed adds 3e-7 * s * z to weights in fp16, direction by direction. Weights near 0.02 are
    # 1.5e-5 apart there: a step of 1e-6 rounds away, and so does the next. Integers are added up
    # first and are rounded once.
    size, count, lr = 20_000, 1024, 3e-7
    weights = (0.02 * np.random.default_rng(1).standard_normal(size)).astype(np.float16)
    names, s = drawn(count), 3 * np.random.default_rng(2).standard_normal(count)
    steps = quantize(s, STEP)
    z = vectors(names, size)
    truth = -lr * STEP * (steps.astype(np.float64) @ z)

    sequential = weights.copy()
    for scalar, direction in zip(steps * STEP, z, strict=True):
        sequential -= (lr * scalar * direction).astype(np.float16)
    lost = sequential.astype(np.float64) - weights
    assert cosine(lost, truth) < 0.7
    assert np.mean(lost == 0) > 0.4

    total = replay(entries_of(names, steps), size)
    kept = apply(np.zeros(size, dtype=np.float32), total, -lr * STEP)
    assert cosine(kept, truth) > 0.999_999
