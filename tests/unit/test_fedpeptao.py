"""FedPepTAO's server: against its equations, in any order, and through what clients lack."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.errors import ConfigError, StrategyError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import (
    Client,
    ClientTask,
    ClientUpdate,
    Cohort,
    Delta,
    LocalWork,
    Params,
    Payload,
    State,
)
from fedloom.server.remembered import Remembered
from fedloom.server.round import run_round
from fedloom.strategies.fedpeptao import FedPepTAO
from fedloom.strategies.remembering import Memory, layout_of

PREFIX, HEAD = TensorSpec("layer.0.prefix", (2, 3), "layer.0"), frozenset({"head"})
MODEL = Layout((PREFIX, TensorSpec("kept", (4,)), TensorSpec("head.bias", (2,), "head", HEAD)))
SENT = Layout((MODEL.specs[0], MODEL.specs[2]))
WORK = LocalWork(epochs=2, batch_size=3, lr=0.04, head_lr=0.5)
EXAMPLES = {"ann": 7, "bob": 2, "cyd": 5, "dan": 12}
ROUNDS = (("ann", "bob"), ("bob", "cyd", "dan"), ("dan", "ann"))
RATES = np.array([0.04] * 6 + [0.5] * 2)


def made_up(client: str, round: int) -> Vector:
    draw = np.random.default_rng([round, *client.encode()])
    return draw.normal(scale=0.1, size=SENT.size).astype(np.float32)


def start() -> Params:
    return Params(MODEL, np.arange(MODEL.size, dtype=np.float32))


def opened(folder: Path, done: int = 0, controls: str = "last") -> Memory:
    strategy = FedPepTAO(clients=10, controls=controls)
    path = folder / "remembered.sqlite"
    layout = layout_of(strategy, SENT)
    return Memory(strategy, layout, ClientVectors(path, layout, {}, done=done, fresh=not done))


def no_payloads(payload: Payload, layout: Layout) -> Delta:
    raise AssertionError


def played(
    memory: Memory, state: State, number: int, *, backwards: bool = False, lost: bool = False
) -> State:
    """One round; `lost`: only as far as its first update."""
    names = ROUNDS[number - 1][:: -1 if backwards else 1]

    async def dispatch(tasks: Mapping[str, ClientTask]) -> AsyncIterator[ClientUpdate]:
        for name in names:
            delta = Delta(SENT, made_up(name, number))
            yield ClientUpdate(name, number, EXAMPLES[name], delta=delta)
            if lost:
                raise InterruptedError

    cohort = Cohort(number, tuple(Client(n, EXAMPLES[n]) for n in names), WORK)
    strategy = memory.strategy
    assert isinstance(strategy, FedPepTAO)
    kept = Remembered(memory)
    playing = run_round(strategy, state, cohort, dispatch, decode=no_payloads, kept=kept)
    return asyncio.run(playing)[0]


def by_the_equations(controls: str) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The model after all rounds, and the control variate of each client."""
    theta, m, c = start().only(SENT).vector.astype(float), np.zeros(8), np.zeros(8)
    own, known = {name: np.zeros(8) for name in EXAMPLES}, set[str]()
    for t, names in enumerate(ROUNDS):
        n = np.array([EXAMPLES[name] for name in names], dtype=float)
        p = n / n.sum()
        local = [theta + made_up(name, t + 1) for name in names]
        mean = sum(w * x for w, x in zip(p, local, strict=True))
        tau = [2 * -(-EXAMPLES[name] // 3) for name in names]  # two epochs, batches of three
        old = {name: own[name] for name in names}
        if controls == "last":  # who had none counts as the mean of the others
            old |= {name: c for name in names if name not in known}
            known |= set(names)
        for name, x, steps in zip(names, local, tau, strict=True):
            earlier = own[name] - c if controls == "sum" else 0.0
            own[name] = earlier + (theta - x) / (steps * RATES)
        change = sum(w * (own[name] - old[name]) for w, name in zip(p, names, strict=True))
        c = c + len(names) / 10 * change
        m = 0.9 * m + 0.1 * (theta - mean)
        correction = c - sum(w * own[name] for w, name in zip(p, names, strict=True))
        theta = mean - 0.05 * 0.99**t * (m + correction)
    return theta, own


@pytest.mark.parametrize("controls", ["last", "sum"])
def test_three_rounds_of_some_clients_are_the_equations(tmp_path: Path, controls: str) -> None:
    memory, state = opened(tmp_path, controls=controls), State(start())
    for number in (1, 2, 3):
        state = played(memory, state, number)
    theta, own = by_the_equations(controls)
    np.testing.assert_allclose(state.params.only(SENT).vector, theta, atol=2e-6)
    for name, expected in own.items():
        found = memory.records.of(name)
        assert found is not None
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # What nobody sends has not moved.
    np.testing.assert_array_equal(MODEL.view(state.params.vector, "kept"), [6, 7, 8, 9])


def test_the_order_of_updates_is_of_no_consequence(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    first, second = State(start()), State(start())
    for number in (1, 2, 3):
        first = played(one, first, number)
        second = played(two, second, number, backwards=True)
    assert bits(first) == bits(second)
    assert records(one) == records(two)


@pytest.mark.parametrize("again", [True, False])
def test_a_round_that_was_cut_short_comes_to_the_same_bits(tmp_path: Path, again: bool) -> None:
    whole, cut = opened(tmp_path / "whole"), opened(tmp_path / "cut")
    expected, state = State(start()), State(start())
    for number in (1, 2, 3):
        expected = played(whole, expected, number)
        with pytest.raises(InterruptedError):
            played(cut, state, number, lost=True)
        if not again:  # another process
            assert isinstance(cut.records, ClientVectors)
            cut.records.close()
            cut = opened(tmp_path / "cut", done=number - 1)
        state = played(cut, state, number)
    assert bits(state) == bits(expected)
    assert records(cut) == records(whole)


def test_a_round_whose_state_was_lost_is_played_again(tmp_path: Path) -> None:
    whole, lost = opened(tmp_path / "whole"), opened(tmp_path / "lost")
    one = played(whole, State(start()), 1)
    two = played(whole, one, 2)
    state = played(lost, State(start()), 1)
    played(lost, state, 2)  # its records are on the disk, its state is not
    assert bits(played(lost, state, 2)) == bits(two)
    assert records(lost) == records(whole)


def test_without_a_number_of_clients_it_is_of_those_who_have_answered() -> None:
    strategy, layout = FedPepTAO(controls="sum"), Layout((TensorSpec("a", (1,)),))
    update = ClientUpdate("ann", 1, 1, work=LocalWork(steps=2, lr=0.5))
    update = replace(update, delta=Delta(layout, np.array([-3], dtype=np.float32)))
    state = State(Params(layout, np.zeros(1, dtype=np.float32)))
    state, _ = strategy.apply(state, strategy.accumulate(None, update))
    # (0 - -3) / (2 * 0.5) = 3; of one client that is known, c is all of it, and so is c_1.
    assert state.slots["c"].tolist() == [3.0]
    assert state.notes == {"known": 1}
    # -3 - 0.05 (0.1 * 3 + 3 - 3)
    assert state.params.vector.tolist() == pytest.approx([-3.015])
    # Another client: c + 1/2 (7 - 3).
    other = replace(update, client="bob", delta=Delta(layout, np.array([-7], dtype=np.float32)))
    state, _ = strategy.apply(state, strategy.accumulate(None, other))
    assert state.slots["c"].tolist() == [5.0]
    assert state.notes == {"known": 2}


def test_with_weight_one_a_step_is_along_the_newest_gradients_of_all() -> None:
    # One step at rate 0.5, so that slopes are deltas times -2; the server's rate is that of a step.
    strategy = FedPepTAO(lr=0.5, momentum=0.0, decay=1.0)
    layout, work = Layout((TensorSpec("a", (1,)),)), LocalWork(steps=1, lr=0.5)
    state = State(Params(layout, np.zeros(1, dtype=np.float32)))
    own: dict[str, Params] = {}
    for client, moved in (("ann", -1.0), ("bob", -2.0), ("ann", -4.0)):
        delta = Delta(layout, np.array([moved], dtype=np.float32))
        update = ClientUpdate(client, 1, 1, delta=delta, work=work, remembered=own.get(client))
        before, total = state, strategy.accumulate(None, update)
        own[client] = strategy.remember(state, update)
        state, _ = strategy.apply(state, total)
    # ann's newest slope is 8, bob's 4: their mean.
    assert state.slots["c"].tolist() == [6.0]
    # Momentum 0 is the pseudo-gradient itself: -4 - 0.5 (4 + 6 - 8).
    step = state.params.vector - before.params.vector
    assert step.tolist() == [-5.0]


def test_an_update_that_is_refused_leaves_the_total_as_it_was() -> None:
    strategy = FedPepTAO()
    good = ClientUpdate("ann", 1, 3, delta=Delta(SENT, made_up("ann", 1)), work=WORK)
    total = strategy.accumulate(None, good)
    before = total.sums.sums.copy()
    # The delta itself is finite; divided by so small a learning rate it is not.
    work = LocalWork(lr=1e-38, head_lr=0.5)
    large = replace(good, client="bob", work=work, delta=Delta(SENT, 1e6 * made_up("bob", 1)))
    with np.errstate(over="ignore"), pytest.raises(UpdateRefusedError, match="not finite"):
        strategy.accumulate(total, large)
    np.testing.assert_array_equal(total.sums.sums, before)
    assert (total.members, total.new) == (1, 1)
    with pytest.raises(UpdateRefusedError, match="not decoded"):
        strategy.accumulate(total, ClientUpdate("eve", 1, 1))


def test_momentum_alone_remembers_nobody() -> None:
    strategy = FedPepTAO(controls="none")
    assert layout_of(strategy, SENT).specs == ()
    update = ClientUpdate("ann", 1, 3, delta=Delta(SENT, made_up("ann", 1)), work=WORK)
    state, _ = strategy.apply(State(start()), strategy.accumulate(None, update))
    assert set(state.slots) == {"m"}
    moved = made_up("ann", 1) * (1 + 0.05 * 0.1)
    expected = start().only(SENT).vector + moved
    np.testing.assert_allclose(state.params.only(SENT).vector, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("decay", 0.0),
        ("lowest", 0.1),
        ("momentum", 1.0),
        ("clients", -1),
        ("controls", "yes"),
    ],
)
def test_options_out_of_range(option: str, value: float | str) -> None:
    with pytest.raises(ConfigError, match=option):
        FedPepTAO(**{option: value})  # type: ignore[arg-type]


class Forgetful(FedPepTAO):
    """Remembers what is no number."""

    def remember(self, state: State, update: ClientUpdate) -> Params:
        return Params(SENT, np.full(SENT.size, np.nan, dtype=np.float32))


def test_what_is_remembered_must_be_finite(tmp_path: Path) -> None:
    memory = replace(opened(tmp_path), strategy=Forgetful())
    with pytest.raises(StrategyError, match=r"remember, round 1: .* 'ann' is not finite"):
        played(memory, State(start()), 1)


def bits(state: State) -> dict[str, bytes]:
    arrays = {**state.slots, "params": state.params.vector}
    return {name: array.tobytes() for name, array in arrays.items()}


def records(memory: Memory) -> dict[str, list[float] | None]:
    found = {name: memory.records.of(name) for name in EXAMPLES}
    return {name: None if own is None else own.tolist() for name, own in found.items()}
