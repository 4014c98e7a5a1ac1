"""SCAFFOLD's and FedDyn's servers against their equations, over rounds of changing clients."""

from typing import Any

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import Client, ClientUpdate, Cohort, Delta, LocalWork, Params, State
from fedloom.strategies.drift import FedDyn, Scaffold

LAYOUT = Layout((TensorSpec("w", (3,)), TensorSpec("idle", (2,))))
SENT = LAYOUT.select(("w",))
WORK = LocalWork(steps=4, lr=0.05)
ROUNDS = (("ann", "bob"), ("bob", "cyd", "dan"), (), ("ann",))


def start() -> State:
    return State(Params(LAYOUT, np.arange(5, dtype=np.float32)))


def update(client: str, number: int, delta: Vector) -> ClientUpdate:
    examples = 3 + len(client) * number  # that it does not count is part of the test
    return ClientUpdate(client, number, examples, delta=Delta(SENT, delta), work=WORK)


def played(strategy: Any) -> tuple[list[State], list[list[Vector]]]:
    """The states before and after each round, and the deltas of each."""
    draw, states, rounds = np.random.default_rng(0), [start()], []
    for number, clients in enumerate(ROUNDS, start=1):
        deltas = [draw.normal(size=3).astype(np.float32) for _ in clients]
        total = None
        for client, delta in zip(clients, deltas, strict=True):
            total = strategy.accumulate(total, update(client, number, delta))
        after, _ = strategy.apply(states[-1], total)
        states.append(after)
        rounds.append(deltas)
    return states, rounds


def test_scaffold_moves_model_and_control_as_algorithm_1_has_it() -> None:
    strategy = Scaffold(clients=10, lr=0.5)
    states, rounds = played(strategy)
    x, c = np.arange(5, dtype=np.float64)[:3], np.zeros(3)
    for after, deltas in zip(states[1:], rounds, strict=True):
        if deltas:
            slopes = [-delta / (4 * 0.05) for delta in deltas]
            x, c = x + 0.5 * np.mean(deltas, axis=0), c + np.sum(slopes - c, axis=0) / 10
        np.testing.assert_allclose(after.params.vector[:3], x, rtol=1e-5)
        np.testing.assert_array_equal(after.params.vector[3:], [3, 4])
        if deltas:
            control = np.asarray(strategy.briefing(after)["control"], dtype=np.float32)
            np.testing.assert_allclose(control[:3], c, rtol=1e-5)
    assert strategy.briefing(states[0]) == {}


def test_feddyn_moves_model_and_memory_as_algorithm_1_has_it() -> None:
    strategy = FedDyn(clients=10, alpha=0.2)
    states, rounds = played(strategy)
    x, h = np.arange(5, dtype=np.float64)[:3], np.zeros(3)
    for after, deltas in zip(states[1:], rounds, strict=True):
        if deltas:
            h = h - 0.2 / 10 * np.sum(deltas, axis=0)
            x = x + np.mean(deltas, axis=0) - h / 0.2
        np.testing.assert_allclose(after.params.vector[:3], x, rtol=1e-5)
        np.testing.assert_array_equal(after.params.vector[3:], [3, 4])


def test_feddyn_s_alpha_is_the_clients_proximal_term() -> None:
    cohort = Cohort(1, (Client("ann", 1),), work=WORK)
    task = FedDyn(clients=10, alpha=0.2).configure(start(), cohort)["ann"]
    assert task.work.prox_mu == 0.2


@pytest.mark.parametrize("made", [Scaffold, FedDyn])
def test_a_federation_has_clients(made: Any) -> None:
    with pytest.raises(ConfigError, match=r"clients = 0: 1 or more"):
        made(clients=0)
