import numpy as np
import pytest

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Cohort, Delta, Params, State
from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.fedavg import fedavg
from fedloom.strategies.optimizers import Momentum
from fedloom.strategies.plan import Constant

LAYOUT = Layout((TensorSpec("w", (3,)),))
START = Params(LAYOUT, np.array([0, 1, 2], dtype=np.float32))


def update(*values: float) -> ClientUpdate:
    return ClientUpdate("a", 1, 1, delta=Delta(LAYOUT, np.array(values, dtype=np.float32)))


def test_the_three_parts_make_a_round() -> None:
    strategy = fedavg()
    state = strategy.init(START)
    assert strategy.configure(state, Cohort(1, ())) == {}
    total = strategy.accumulate(None, update(3, 0, 4))
    after, metrics = strategy.apply(state, total)
    assert after.params.vector.tolist() == [3, 1, 6]
    assert after.version == 1
    assert metrics == {"delta_norm": pytest.approx(5.0)}


def test_without_updates_only_the_version_moves() -> None:
    strategy = Composed(Constant(), WeightedMean(), Momentum())
    velocity = np.ones(3, dtype=np.float32)
    state = State(START, 4, {"m": velocity}, {"note": 1})
    after, metrics = strategy.apply(state, None)
    assert after.version == 5
    assert after.params is START
    assert after.slots["m"] is velocity
    assert after.notes == {"note": 1}
    assert metrics == {}


def test_the_optimizers_arrays_are_kept_and_so_are_notes() -> None:
    strategy = Composed(Constant(), WeightedMean(), Momentum())
    state = State(START, 0, {}, {"note": "kept"})
    after, _ = strategy.apply(state, strategy.accumulate(None, update(1, 2, 3)))
    assert after.slots["m"].tolist() == [1, 2, 3]
    assert after.notes == {"note": "kept"}
