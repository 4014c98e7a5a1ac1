"""FedNova against its equations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, LocalWork, Params, State
from fedloom.strategies import fedavg
from fedloom.strategies.fednova import fednova, length_of

LAYOUT = Layout((TensorSpec("w", (2,)),))
ZERO = State(Params(LAYOUT, np.zeros(2, dtype=np.float32)))


def update(client: str, values: list[float], examples: int, work: LocalWork) -> ClientUpdate:
    delta = Delta(LAYOUT, np.array(values, dtype=np.float32))
    return ClientUpdate(client, 1, examples, delta=delta, work=work)


def after(strategy: object, updates: list[ClientUpdate]) -> list[float]:
    total = None
    for each in updates:
        total = strategy.accumulate(total, each)  # type: ignore[attr-defined]
    state, _ = strategy.apply(ZERO, total)  # type: ignore[attr-defined]
    return [float(x) for x in state.params.vector]


def test_a_client_of_many_steps_does_not_pull_more_for_it() -> None:
    work = LocalWork(epochs=1, batch_size=1, lr=0.1)
    # 9 examples, 9 steps; 1 example, 1 step. Directions 1 and 1 a step; mean steps 0.9 x 9 + 0.1
    updates = [update("a", [9.0, 0.0], 9, work), update("b", [0.0, 1.0], 1, work)]
    assert after(fednova(), updates) == pytest.approx([8.2 * 0.9, 8.2 * 0.1])


@given(st.integers(1, 40), st.floats(-1, 1), st.floats(-1, 1))
def test_with_equal_steps_it_is_fedavg(steps: int, x: float, y: float) -> None:
    work = LocalWork(steps=steps)
    updates = [update("a", [x, y], 3, work), update("b", [y, x], 5, work)]
    np.testing.assert_allclose(after(fednova(), updates), after(fedavg(), updates), atol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_length_of_momentum_s_steps_is_the_sum_of_its_coefficients(rho: float) -> None:
    # A gradient of step i is in tau - i velocities: rho^0 + ... + rho^(tau - 1 - i).
    by_hand = sum(sum(rho**j for j in range(7 - i)) for i in range(7))
    assert length_of(LocalWork(steps=7, momentum=rho), 1) == pytest.approx(by_hand)


def test_the_length_of_proximal_steps_is_the_sum_of_its_coefficients() -> None:
    # Each later step shrinks the distance to the start by 1 - eta mu.
    by_hand = sum((1 - 0.1 * 0.5) ** i for i in range(7))
    assert length_of(LocalWork(steps=7, lr=0.1, prox_mu=0.5), 1) == pytest.approx(by_hand)
