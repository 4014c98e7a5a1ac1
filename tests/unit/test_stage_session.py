from typing import cast

import numpy as np

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import Session
from fedloom.tuning.stage_session import StageSession

LAYOUT = Layout((TensorSpec("head", (2,)), TensorSpec("lora", (3,))))


def params(*values: float) -> Params:
    return Params(LAYOUT, np.array(values, dtype=np.float32))


def test_it_is_made_again_only_where_what_does_not_train_has_changed() -> None:
    made: list[Params] = []

    def make(found: Params) -> Session:
        made.append(found)
        return cast(Session, object())

    sessions = StageSession(("lora",), make)
    first = sessions.of(params(1, 2, 0, 0, 0))
    assert sessions.of(params(1, 2, 7, 8, 9)) is first  # only what trains is another
    second = sessions.of(params(1, 2.5, 7, 8, 9))  # the head came down with another rounding
    assert second is not first
    assert sessions.of(params(1, 2.5, 0, 0, 0)) is second
    assert [p.vector[1] for p in made] == [2.0, 2.5]


def test_where_everything_trains_one_serves_the_stage() -> None:
    sessions = StageSession(("*",), lambda found: cast(Session, object()))
    assert sessions.of(params(1, 2, 3, 4, 5)) is sessions.of(params(5, 4, 3, 2, 1))
