from typing import cast

import numpy as np

from fedloom.core.layout import Layout, Selector, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import Session
from fedloom.tuning.stage_session import StageSession

LAYOUT = Layout((TensorSpec("head", (2,)), TensorSpec("lora", (3,))))
LORA = ("lora",)


def params(*values: float) -> Params:
    return Params(LAYOUT, np.array(values, dtype=np.float32))


def test_it_is_made_again_only_where_what_does_not_train_has_changed() -> None:
    made: list[Params] = []

    def make(found: Params, train: Selector) -> Session:
        made.append(found)
        return cast(Session, object())

    sessions = StageSession(make)
    first = sessions.of(params(1, 2, 0, 0, 0), LORA)
    assert sessions.of(params(1, 2, 7, 8, 9), LORA) is first  # only what trains is another
    second = sessions.of(params(1, 2.5, 7, 8, 9), LORA)  # the head came down with another rounding
    assert second is not first
    assert sessions.of(params(1, 2.5, 0, 0, 0), LORA) is second
    assert [p.vector[1] for p in made] == [2.0, 2.5]


def test_where_everything_trains_one_serves_the_stage() -> None:
    sessions = StageSession(lambda found, train: cast(Session, object()))
    whole = ("*",)
    assert sessions.of(params(1, 2, 3, 4, 5), whole) is sessions.of(params(5, 4, 3, 2, 1), whole)


def test_each_selection_of_a_stage_has_its_own() -> None:
    made: list[Selector] = []

    def make(found: Params, train: Selector) -> Session:
        made.append(train)
        return cast(Session, object())

    sessions, start = StageSession(make), params(1, 2, 3, 4, 5)
    one, other = sessions.of(start, LORA), sessions.of(start, ("head",))
    assert one is not other
    assert sessions.of(start, LORA) is one
    assert made == [LORA, ("head",)]
