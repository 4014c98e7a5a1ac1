from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.step_total import StepTotal, add_update, advance_of

BODY = Layout((TensorSpec("a", (3, 3)), TensorSpec("b", (2,))))
HEAD = Layout((TensorSpec("h", (2,)),))
PARAMS = Params(Layout.concat((BODY, HEAD)), np.zeros(13, dtype=np.float32))
NUMBERS = st.lists(st.integers(-32767, 32767), min_size=3, max_size=3)


@st.composite
def updates(draw: st.DrawFn) -> list[ClientUpdate]:
    scheme = draw(st.sampled_from(["distinct", "shared", "pool", "candidates"]))
    made = []
    for number in range(draw(st.integers(1, 6))):
        name = f"client-{number}"
        vector = np.array(draw(st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=2)))
        steps, layout = None, HEAD
        if draw(st.booleans()):
            scalars = np.array(draw(NUMBERS), dtype=np.int32)
            coefficient = draw(st.sampled_from([-0.5, -0.01, -0.3, -0.7]))
            steps = Steps(BODY, scalars, coefficient, Directions(scheme, pool=3))
            steps = steps.bound(1, round=2, client=name)
        examples = draw(st.integers(0, 1000))
        delta = Delta(layout, vector.astype(np.float32), steps)
        made.append(ClientUpdate(name, 2, examples, delta=delta))
    return made


@settings(max_examples=40, deadline=None)
@given(updates(), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.2]))
def test_any_order_of_updates_gives_the_same_bits(
    made: list[ClientUpdate], random: Random, shrink: float
) -> None:
    def end(order: list[ClientUpdate]) -> bytes:
        total: StepTotal | None = None
        for update in order:
            total = add_update(total, update)
        assert total is not None
        advance = advance_of(PARAMS, total, lr=1.0, shrink=shrink)
        return advance.apply(PARAMS, 1).vector.tobytes()

    shuffled = list(made)
    random.shuffle(shuffled)
    assert end(made) == end(shuffled) == end(made[::-1])
