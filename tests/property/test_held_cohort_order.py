"""Whatever the order of arrival, the rows of a held cohort are the same, and sorted by client."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta
from fedloom.strategies.held_cohort import HeldCohort

LAYOUT = Layout((TensorSpec("a", (2, 3)), TensorSpec("b", (4,)), TensorSpec("c", (1, 5))))


@st.composite
def cohorts(draw: st.DrawFn) -> list[ClientUpdate]:
    """Updates of up to six clients, each of some of the tensors."""
    names = draw(st.lists(st.text("abz09", min_size=1), min_size=1, max_size=6, unique=True))
    updates = []
    for name in names:
        specs = draw(st.lists(st.sampled_from(LAYOUT.specs), min_size=1, unique=True))
        part = Layout(tuple(spec for spec in LAYOUT if spec in specs))
        noise = np.random.default_rng(draw(st.integers(0, 99))).normal(size=part.size)
        delta = Delta(part, noise.astype(np.float32))
        updates.append(ClientUpdate(name, 1, draw(st.integers(0, 9)), delta=delta))
    return updates


def _held(updates: Sequence[ClientUpdate]) -> HeldCohort:
    held = HeldCohort()
    for update in updates:
        held.add(update)
    return held


@settings(deadline=None, max_examples=40)
@given(cohorts(), st.randoms(), st.integers(4, 200))
def test_any_order_of_arrival_gives_the_same_blocks(updates, random, memory) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(updates)
    random.shuffle(shuffled)
    one, two = _held(updates), _held(shuffled)
    assert [u.client for u in one.updates] == sorted(u.client for u in updates)
    assert [u.num_examples for u in one.updates] == [u.num_examples for u in two.updates]
    for left, right in zip(one.blocks(LAYOUT, memory), two.blocks(LAYOUT, memory), strict=True):
        assert left.span == right.span
        assert left.rows.tobytes() == right.rows.tobytes()
        assert left.present.tobytes() == right.present.tobytes()


@settings(deadline=None, max_examples=40)
@given(cohorts(), st.integers(4, 200))
def test_blocks_put_together_are_the_deltas(updates: list[ClientUpdate], memory: int) -> None:
    held = _held(updates)
    found = np.zeros((len(updates), LAYOUT.size), dtype=np.float32)
    present = np.zeros((len(updates), LAYOUT.size), dtype=np.bool_)
    for block in held.blocks(LAYOUT, memory):
        assert block.rows.nbytes <= max(memory, 4 * len(updates))
        found[:, block.span] = block.rows
        present[:, block.span] = block.present[:, None]
    for row, has, update in zip(
        found, present, sorted(updates, key=lambda u: u.client), strict=True
    ):
        assert update.delta is not None
        part = update.delta.layout
        zeros = np.zeros(LAYOUT.size, dtype=np.float32)
        np.testing.assert_array_equal(row, LAYOUT.scatter(zeros, part, update.delta.vector))
        ones = np.ones(part.size, dtype=np.float32)
        np.testing.assert_array_equal(has, LAYOUT.scatter(zeros, part, ones) == 1)
