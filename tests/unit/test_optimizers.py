"""Two steps of each optimizer on three elements, worked out by hand.

The deltas are D1 = [1, -2, 0] and D2 = [0.5, 1, 2], from w = [0, 1, 2]. Numbers are powers of two
wherever the formula lets them be, so that float32 holds them exactly.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta, Params, State
from fedloom.strategies.base import ServerOptimizer, Step
from fedloom.strategies.optimizers import Adagrad, Adam, Momentum, Sgd, Yogi

LAYOUT = Layout((TensorSpec("w", (3,)),))
D1, D2 = [1, -2, 0], [0.5, 1, 2]


def vector(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def two_steps(optimizer: ServerOptimizer) -> tuple[Step, Step]:
    state = State(Params(LAYOUT, vector([0, 1, 2])))
    first = optimizer.step(state, Delta(LAYOUT, vector(D1)))
    between = State(Params(LAYOUT, first.vector), 1, first.slots)
    return first, optimizer.step(between, Delta(LAYOUT, vector(D2)))


def test_sgd() -> None:
    first, second = two_steps(Sgd(lr=0.5))
    assert first.vector.tolist() == [0.5, 0, 2]  # [0, 1, 2] + 0.5 D1
    assert second.vector.tolist() == [0.75, 0.5, 3]  # ... + 0.5 D2
    assert not second.slots


def test_momentum() -> None:
    first, second = two_steps(Momentum(lr=0.5, momentum=0.5))
    assert first.slots["m"].tolist() == [1, -2, 0]
    assert first.vector.tolist() == [0.5, 0, 2]
    assert second.slots["m"].tolist() == [1, 0, 2]  # 0.5 D1 + D2
    assert second.vector.tolist() == [1, 0, 3]


def test_adagrad() -> None:
    # tau = 2, so v starts at 4. beta1 = 0: m = D.
    # Step 1: v = 4 + [1, 4, 0] = [5, 8, 4]
    #   w = [0, 1, 2] + [1, -2, 0] / (sqrt(v) + 2) = [1/4.236068, 1 - 2/4.828427, 2]
    # Step 2: v = [5.25, 9, 8]
    #   w += [0.5, 1, 2] / (sqrt(v) + 2) = [0.5/4.291288, 1/5, 2/4.828427]
    first, second = two_steps(Adagrad(lr=1.0, tau=2.0))
    assert first.slots["v"].tolist() == [5, 8, 4]
    assert first.vector.tolist() == pytest.approx([0.2360680, 0.5857864, 2], rel=1e-6)
    assert second.slots["v"].tolist() == [5.25, 9, 8]
    assert second.vector.tolist() == pytest.approx([0.3525830, 0.7857864, 2.4142136], rel=1e-6)


def test_adagrad_with_momentum() -> None:
    first, second = two_steps(Adagrad(beta1=0.5))
    assert first.slots["m"].tolist() == [0.5, -1, 0]
    assert second.slots["m"].tolist() == [0.5, 0, 1]


def test_adam() -> None:
    # tau = 2, v starts at 4; betas (0.5, 0.75); no bias correction.
    # Step 1: m = 0.5 D1 = [0.5, -1, 0]; v = 0.75 * 4 + 0.25 * [1, 4, 0] = [3.25, 4, 3]
    #   w = [0, 1, 2] + 2 m / (sqrt(v) + 2) = [1/3.802776, 1 - 2/4, 2]
    # Step 2: m = 0.5 m + 0.5 D2 = [0.5, 0, 1]; v = 0.75 v + 0.25 * [0.25, 1, 4]
    #   = [2.5, 3.25, 3.25];  w += 2 m / (sqrt(v) + 2) = [1/3.581139, 0, 2/3.802776]
    first, second = two_steps(Adam(lr=2.0, betas=(0.5, 0.75), tau=2.0))
    assert first.slots["m"].tolist() == [0.5, -1, 0]
    assert first.slots["v"].tolist() == [3.25, 4, 3]
    assert first.vector.tolist() == pytest.approx([0.2629658, 0.5, 2], rel=1e-6)
    assert second.slots["m"].tolist() == [0.5, 0, 1]
    assert second.slots["v"].tolist() == [2.5, 3.25, 3.25]
    assert second.vector.tolist() == pytest.approx([0.5422065, 0.5, 2.5259317], rel=1e-6)


def test_yogi() -> None:
    # tau = 1, v starts at 1; betas (0.5, 0.75).
    # Step 1: D^2 = [1, 4, 0], sign(v - D^2) = [0, -1, 1];
    #   v = 1 - 0.25 * [0, -4, 0] = [1, 2, 1];  m = [0.5, -1, 0]
    #   w = [0, 1, 2] + m / (sqrt(v) + 1) = [0.25, 1 - 1/2.414214, 2]
    # Step 2: D^2 = [0.25, 1, 4], sign = [1, 1, -1];
    #   v = [1, 2, 1] - 0.25 * [0.25, 1, -4] = [0.9375, 1.75, 2];  m = [0.5, 0, 1]
    #   w += m / (sqrt(v) + 1) = [0.5/1.968246, 0, 1/2.414214]
    first, second = two_steps(Yogi(lr=1.0, betas=(0.5, 0.75), tau=1.0))
    assert first.slots["v"].tolist() == [1, 2, 1]
    assert first.vector.tolist() == pytest.approx([0.25, 0.5857864, 2], rel=1e-6)
    assert second.slots["m"].tolist() == [0.5, 0, 1]
    assert second.slots["v"].tolist() == [0.9375, 1.75, 2]
    assert second.vector.tolist() == pytest.approx([0.5040333, 0.5857864, 2.4142136], rel=1e-6)


@pytest.mark.parametrize("optimizer", [Sgd(), Momentum(), Adagrad(), Adam(), Yogi()], ids=str)
def test_everything_stays_float32(optimizer: ServerOptimizer) -> None:
    for step in two_steps(optimizer):
        arrays = [step.vector, *step.slots.values()]
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(lr=0), "lr = 0: above 0 and finite"),
        (lambda: Momentum(lr=float("nan")), "lr = nan"),
        (lambda: Momentum(momentum=1.0), r"momentum = 1.0: in \[0, 1\)"),
        (lambda: Adagrad(beta1=-0.1), r"betas = \(-0.1, 0.0\)"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas = \(0.9, 1.0\): two in \[0, 1\)"),
        (lambda: Yogi(tau=0.0), "tau = 0.0: above 0 and finite"),
    ],
)
def test_settings_out_of_range_are_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=message):
        make()
