import numpy as np
import pytest

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import POOL, Directions, Steps
from fedloom.core.types import Delta, Params

A, B, C = TensorSpec("a", (2, 3)), TensorSpec("b", (5,)), TensorSpec("c", (2,))
LAYOUT = Layout((A, B, C))
START = Params(LAYOUT, np.linspace(-1, 1, 13, dtype=np.float32))
NOTHING = Delta(Layout(()), np.zeros(0, dtype=np.float32))


def scalars(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def vector(steps: Steps) -> np.ndarray:
    return steps.vector()


def test_a_move_is_the_weighted_sum_of_its_contributions() -> None:
    moved, agreed = Layout((A, B)), Directions()
    parts = (Contribution(11, 2, scalars(3, -1)), Contribution(12, 5, scalars(4, 0)))
    move = Move(moved, (0.5, 0.25), agreed, 3, parts)
    found = Advance((move,), NOTHING).apply(START, 7)
    unit = [agreed.keys(7, round=3, owner=part.owner, count=2) for part in parts]
    assert len({*unit[0], *unit[1]}) == 2
    total = np.zeros(11)
    for part in parts:
        alone = Move(moved, (1.0, 1.0), agreed, 3, (Contribution(part.owner, 1, part.scalars),))
        total += part.weight * alone.vector(7).astype(np.float64)
    worth = np.repeat([0.5, 0.25], [6, 5])
    expected = START.vector.copy()
    expected[:11] += (total * worth).astype(np.float32)
    assert found.vector.tolist() == expected.tolist()


def test_a_clients_own_steps_are_a_round_of_one() -> None:
    own = Steps(Layout((B,)), np.array([9, -4], dtype=np.int32), -0.125).bound(
        7, round=3, client="ann"
    )
    assert own.origin is not None
    part = Contribution(own.origin.owner, 1, own.scalars.astype(np.int64))
    move = Move(own.layout, (own.coefficient,), own.directions, 3, (part,))
    assert move.vector(7).tolist() == vector(own).tolist()


def test_the_order_of_contributions_makes_no_difference() -> None:
    parts = tuple(Contribution(i, i + 1, scalars(i, -i, 2 * i)) for i in range(20))
    both = [Move(LAYOUT, (0.1,) * 3, Directions(), 1, p).vector(0) for p in (parts, parts[::-1])]
    assert both[0].tobytes() == both[1].tobytes()


def test_the_rest_is_added_first_and_what_is_not_named_stays() -> None:
    rest = Delta(Layout((C,)), np.array([10, 20], dtype=np.float32))
    found = Advance((), rest).apply(START, 0)
    assert (found.vector[:11] == START.vector[:11]).all()
    expected = START.vector[11:] + np.array([10, 20], dtype=np.float32)
    assert found.vector[11:].tolist() == expected.tolist()
    assert START.vector[11] != found.vector[11]  # the model before is as it was


def test_a_tensor_that_the_model_lacks() -> None:
    other = Layout((TensorSpec("d", (2,)),))
    move = Move(other, (1.0,), Directions("pool", 8), 1, (Contribution(POOL, 1, scalars(1)),))
    with pytest.raises(LayoutError, match="d"):
        Advance((move,), NOTHING).apply(START, 0)


def test_scalars_of_another_type() -> None:
    with pytest.raises(LayoutError, match=r"scalars: expected int64 \[n\], got int32 \[1\]"):
        Contribution(1, 1, np.array([1], dtype=np.int32))
