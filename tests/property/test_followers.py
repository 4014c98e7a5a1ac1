"""Clients that follow a model by what happened to it have the server's bits, whatever happens."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink, Form, follow
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.seeds import stream
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientUpdate, Delta, Params, State
from fedloom.strategies.step_total import StepTotal
from fedloom.strategies.zeroth_order import ZerothOrder

SEED, ROUNDS, CLIENTS = 5, 50, 6
BODY = tuple(TensorSpec(f"w{i}", (9, 50)) for i in range(3))
HEAD = TensorSpec("head", (2, 5), tags=frozenset({"head"}))
LAYOUT = Layout((*BODY, HEAD))
MOVED, EXACT = Layout(BODY), Layout((HEAD,))
START = Params(LAYOUT, stream(SEED, "start").uniform(LAYOUT.size).astype(np.float32))


def update(client: str, number: int, agreed: Directions) -> ClientUpdate:
    """What a client sends in a round: scalars, and the head's change."""
    draw = stream(SEED, "update", round=number, client=client)
    scalars = np.zeros(agreed.pool if agreed.numbered else 8, dtype=np.int32)
    at = (draw.uniform(8) * len(scalars)).astype(int) if agreed.numbered else np.arange(8)
    scalars[at] = (draw.uniform(8) * 60_000 - 30_000).astype(np.int32)
    steps = Steps(MOVED, scalars, -0.05 * 2.0**-9, agreed)
    head = (draw.uniform(EXACT.size) - 0.5).astype(np.float32)
    bound = steps.bound(SEED, round=number, client=client)
    weight = 1 + int(draw.uniform(1)[0] * 50)
    return ClientUpdate(client, number, weight, delta=Delta(EXACT, head, bound))


def played(
    strategy: ZerothOrder, state: State, number: int, how: tuple[Directions, random.Random]
) -> State:
    """A round to which some answer, in any order, one of them twice."""
    (agreed, luck), total = how, None
    there = [f"c{i}" for i in range(CLIENTS) if luck.random() < 0.6]
    luck.shuffle(there)
    for client in there:
        total = strategy.accumulate(total, update(client, number, agreed))
    if total is not None and agreed.scheme == "distinct":
        refused(strategy, total, update(there[0], number, agreed))
    return strategy.apply(state, total)[0]


def refused(strategy: ZerothOrder, total: StepTotal, again: ClientUpdate) -> None:
    with pytest.raises(UpdateRefusedError, match="has steps already"):
        strategy.accumulate(total, again)


@dataclass
class Follower:
    """A client that keeps one model."""

    version: int | None = 0
    model: Params = START

    def follows(self, form: Form) -> Params:
        base = self.model if form.base is not None else None
        found = follow(START, Float32(), form.payload, LAYOUT, base=base, seed=SEED)
        self.version, self.model = form.keeps, found.kept
        return found.params


@given(
    scheme=st.sampled_from(["distinct", "shared", "pool"]),
    every=st.sampled_from([0, 7]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=9, deadline=None)
def test_followers_have_the_servers_bits(scheme: str, every: int, seed: int) -> None:
    strategy = ZerothOrder(lr=0.5, anchor_every=every)
    agreed, luck = Directions(scheme, pool=256), random.Random(seed)
    state, followers = State(START), [Follower() for _ in range(CLIENTS)]
    whole = 0
    for number in range(ROUNDS):
        model = Downlink(state, Float32(), LAYOUT, number=number, following=True)
        for follower in followers:
            if luck.random() < 0.03:
                follower.version = None  # it has lost its model
            if luck.random() < 0.3:
                form = model.form(follower.version)
                whole += form.base is None
                for _ in range(luck.choice((1, 1, 2))):  # or it is sent twice
                    again = model.form(follower.version)
                    assert follower.follows(again).vector.tobytes() == state.params.vector.tobytes()
        state = played(strategy, state, number + 1, (agreed, luck))
    assert whole < ROUNDS


@given(st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_the_order_in_which_updates_come_changes_nothing(seed: int) -> None:
    ends = []
    for luck in (random.Random(seed), random.Random(seed + 1)):
        strategy, state = ZerothOrder(), State(START)
        for number in range(1, 6):
            names, total = [f"c{i}" for i in range(CLIENTS)], None
            luck.shuffle(names)
            for name in names:
                total = strategy.accumulate(total, update(name, number, Directions()))
            state, _ = strategy.apply(state, total)
        ends.append({name: array.tobytes() for name, array in state.slots.items()})
    assert ends[0] == ends[1]
