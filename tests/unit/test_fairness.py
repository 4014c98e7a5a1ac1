"""q-FedAvg against its equations."""

import math

import numpy as np
import pytest

from fedloom.core.errors import ConfigError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, LocalWork, Params
from fedloom.strategies.fairness import FairMean, qfedavg

LAYOUT = Layout((TensorSpec("w", (2,)),))
ZERO = Params(LAYOUT, np.zeros(2, dtype=np.float32))
WORK = LocalWork(lr=0.5)


def update(client: str, values: list[float], loss: float, examples: int = 1) -> ClientUpdate:
    delta = Delta(LAYOUT, np.array(values, dtype=np.float32))
    return ClientUpdate(client, 1, examples, delta=delta, metrics={"loss": loss}, work=WORK)


def mean(q: float, *updates: ClientUpdate) -> list[float]:
    rule, total = FairMean(q), None
    for each in updates:
        total = rule.add(total, each)
    assert total is not None
    return [float(x) for x in rule.mean(ZERO, total).vector]


def test_it_is_algorithm_2() -> None:
    # L = 2; d_a = (2, 0), d_b = (0, 4); F = 3, 0.5; q = 2
    # sums of F^2 d: (18, 1); h = 2 x 3 x 4 + 2 x 9 = 42, and 2 x 0.5 x 16 + 2 x 0.25 = 16.5
    found = mean(2.0, update("a", [1.0, 0.0], 3.0), update("b", [0.0, 2.0], 0.5))
    assert found == pytest.approx([18 / 58.5, 1 / 58.5])


def test_without_fairness_it_is_the_mean_over_clients() -> None:
    found = mean(0.0, update("a", [1.0, 0.0], 3.0, 100), update("b", [0.0, 2.0], 0.5))
    assert found == pytest.approx([0.5, 1.0])


def test_who_does_badly_counts_more() -> None:
    few, many = (
        mean(q, update("a", [1.0, 0.0], 4.0), update("b", [0.0, 1.0], 1.0)) for q in (0.1, 2.0)
    )
    assert many[0] / many[1] > few[0] / few[1] > 1


@pytest.mark.parametrize("loss", [0.0, -1.0, math.nan, math.inf])
def test_a_loss_that_nothing_can_be_weighed_by_is_refused(loss: float) -> None:
    with pytest.raises(UpdateRefusedError, match=r"metrics.loss = .*: above 0 and finite"):
        FairMean(0.5).add(None, update("a", [1.0, 0.0], loss))


def test_fairness_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"q = -1: 0 or more"):
        qfedavg(q=-1)
