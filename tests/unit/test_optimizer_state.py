"""Optimizers go on from what another one remembered, to the bit."""

import numpy as np
import pytest
import torch

from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.lanes import Lane
from fedloom.tuning.store import Store

LAYOUT = Layout((TensorSpec("w", (3,), block="layer.0"),))
PARAMS = Params(LAYOUT, np.arange(3, dtype=np.float32))
WORKS = {
    "plain": LocalWork(steps=2, lr=0.1, optimizer="sgd"),
    "momentum": LocalWork(steps=2, lr=0.1, momentum=0.9, optimizer="sgd"),
    "adamw": LocalWork(steps=2, lr=0.1, optimizer="adamw"),
}


def lane(work: LocalWork) -> Lane:
    return Lane(Store(PARAMS, ("*",), clients=1), work)


def step(one: Lane, value: float) -> None:
    one.store.grad[:] = torch.tensor([value, -value, value * value])
    one.optimizer.step()
    one.version += 1


@pytest.mark.parametrize("name", WORKS)
def test_a_lane_goes_on_where_another_stood(name: str) -> None:
    whole, first, second = (lane(WORKS[name]) for _ in range(3))
    for value in (1.0, 0.5):
        step(whole, value)
        step(first, value)
    second.load({n: t.clone() for n, t in first.state().items()})
    assert second.version == 2
    step(whole, -0.25)
    step(second, -0.25)
    assert torch.equal(second.store.values, whole.store.values)


def test_the_state_of_another_optimizer() -> None:
    state = lane(WORKS["momentum"]).state()
    with pytest.raises(LayoutError, match="momentum"):
        lane(WORKS["adamw"]).load(state)
