import numpy as np
import pytest

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientUpdate, Delta, Params, State
from fedloom.strategies.zeroth_order import ZerothOrder, zeroth_order

MOVED = Layout((TensorSpec("lora", (4,)),))
HEAD = Layout((TensorSpec("head", (2,)),))
LAYOUT = Layout.concat((MOVED, HEAD))
START = Params(LAYOUT, np.zeros(6, dtype=np.float32))
GUIDE = np.array([3, 0, 4, 0], dtype=np.float32)  # of length 5


def update(client: str, scalars: list[int], examples: int, round: int = 2) -> ClientUpdate:
    steps = Steps(MOVED, np.array(scalars, dtype=np.int32), -0.5, Directions())
    own = steps.bound(0, round=round, client=client)
    delta = Delta(HEAD, np.ones(2, dtype=np.float32), own)
    return ClientUpdate(client, round, examples, delta=delta)


def after(strategy: ZerothOrder, state: State, *updates: ClientUpdate) -> State:
    total = None
    for one in updates:
        total = strategy.accumulate(total, one)
    return strategy.apply(state, total)[0]


def test_the_first_round_has_none_and_makes_one() -> None:
    strategy = zeroth_order(shrink=0.0, guide=0.9)
    assert strategy.briefing(State(START)) == {}
    state = after(strategy, State(START), update("ann", [8, -8], 1))
    guide = strategy.briefing(state)["guide"]
    assert guide.tolist() == state.params.vector[:4].tolist()
    assert np.abs(guide).max() > 0


def test_the_last_scalar_moves_along_it() -> None:
    strategy = zeroth_order(shrink=0.0, guide=0.9)
    state = State(START, slots={"guide": GUIDE})
    found = after(strategy, state, update("ann", [8, -8, 10], 3), update("bob", [0, 2, -2], 1))
    plain = zeroth_order(shrink=0.0)
    beside = after(plain, State(START), update("ann", [8, -8], 3), update("bob", [0, 2], 1))
    # (3 * 10 + 1 * -2) / 4 = 7 steps, each worth -0.5, along (0.6, 0, 0.8, 0).
    along = -0.5 * 7 * GUIDE / 5
    expected = beside.params.vector[:4] + along
    assert found.params.vector[:4] == pytest.approx(expected, rel=1e-6)
    assert found.params.vector[4:].tolist() == [1, 1]
    # The guide goes on: what it was, at nine tenths, and the move of this round.
    guide = strategy.briefing(found)["guide"]
    assert guide == pytest.approx(0.9 * GUIDE + found.params.vector[:4], rel=1e-6)


def test_a_momentum_of_the_head_leaves_the_guide_alone() -> None:
    strategy = zeroth_order(shrink=0.0, momentum=0.5, guide=0.9)
    state = State(START, slots={"guide": GUIDE})
    found = after(strategy, state, update("ann", [0, 0, 10], 1))
    assert found.slots["velocity"].tolist() == [0, 0, 0, 0, 1, 1]
    assert found.params.vector[:4] == pytest.approx(-0.5 * 10 * GUIDE / 5)


def test_clients_that_move_unlike_tensors_leave_it_as_it_was() -> None:
    strategy = zeroth_order(shrink=0.0, guide=0.9)
    other = Steps(HEAD, np.array([3], dtype=np.int32), -0.5, Directions())
    own = other.bound(0, round=2, client="bob")
    nothing = Delta(Layout(()), np.zeros(0, dtype=np.float32), own)
    state = State(START, slots={"guide": GUIDE})
    both = update("ann", [1, 1, 0], 1), ClientUpdate("bob", 2, 1, delta=nothing)
    assert after(strategy, state, *both).slots["guide"].tolist() == GUIDE.tolist()
