"""IFCA's server: each model moves along those that chose it."""

import numpy as np
import pytest

from fedloom.core.errors import ConfigError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.ifca import Ifca

LAYOUT = Layout((TensorSpec("w", (2,)),))
START = Params(LAYOUT, np.ones(2, dtype=np.float32))


def update(client: str, values: list[float], examples: int, **said: float) -> ClientUpdate:
    delta = Delta(LAYOUT, np.array(values, dtype=np.float32))
    return ClientUpdate(client, 1, examples, delta=delta, metrics=said)


def test_a_model_moves_along_the_mean_of_those_that_chose_it() -> None:
    strategy = Ifca(clusters=3, spread=0.5)
    state = strategy.init(START)
    before = state.slots["clusters"].astype(np.float64)
    np.testing.assert_array_equal(before[0], [1, 1])
    assert np.abs(before[1:] - 1).min() > 0
    assert np.abs(before - 1).max() <= 0.5
    updates = [
        update("a", [1.0, 0.0], 1, cluster=0.0),
        update("b", [0.0, 3.0], 3, cluster=2.0),
        update("c", [3.0, 0.0], 3, cluster=0.0),
    ]
    ends = []
    for order in (updates, updates[::-1]):
        total = None
        for each in order:
            total = strategy.accumulate(total, each)
        ends.append(strategy.apply(state, total))
    after, metrics = ends[0]
    np.testing.assert_array_equal(after.slots["clusters"], ends[1][0].slots["clusters"])
    moved = after.slots["clusters"].astype(np.float64) - before
    wanted = np.array([[2.5, 0], [0, 0], [0, 3]], dtype=np.float64)
    np.testing.assert_allclose(moved, wanted, atol=1e-6)
    assert metrics == {"cluster_0": 4 / 7, "cluster_1": 0.0, "cluster_2": 3 / 7}
    np.testing.assert_allclose(after.params.vector, (before + moved).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("said", [{}, {"cluster": 2.0}, {"cluster": 0.5}, {"cluster": -1.0}])
def test_an_update_of_no_model_is_refused(said: dict[str, float]) -> None:
    with pytest.raises(UpdateRefusedError, match=r"metrics.cluster = .*: 0 to 1"):
        Ifca().accumulate(None, update("a", [1.0, 0.0], 1, **said))


def test_one_cluster_is_none() -> None:
    with pytest.raises(ConfigError, match=r"clusters = 1: 2 to 64"):
        Ifca(clusters=1)
