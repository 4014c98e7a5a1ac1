from collections.abc import Sequence

import numpy as np
import pytest
from steps_made import BODY, SEED, stepped

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.perturbations import Rademacher
from fedloom.core.steps import Directions
from fedloom.core.types import ClientUpdate
from fedloom.strategies.gates import cosine, halves, variance
from fedloom.strategies.step_total import StepTotal, add_update

CLIENTS = [f"client-{i}" for i in range(64)]
WIDE = Layout((TensorSpec("wide", (1500,)),))
WORTH = 2.0**-10


def total_of(updates: Sequence[ClientUpdate]) -> StepTotal:
    total: StepTotal | None = None
    for update in updates:
        total = add_update(total, update)
    assert total is not None
    return total


def change_of(update: ClientUpdate) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    assert update.delta is not None
    assert update.delta.steps is not None
    return update.delta.steps.vector()


def test_halves_are_the_means_of_clients_in_the_order_of_their_numbers() -> None:
    updates = [stepped(name, [3, -2 + i]) for i, name in enumerate("abcd")]
    by_owner = sorted(updates, key=lambda u: Directions().owner(u.client))
    one, other = halves(total_of(updates), ("*",)) or (None, None)
    assert one is not None
    assert other is not None
    first, second = by_owner[:2], by_owner[2:]
    np.testing.assert_allclose(one, sum(map(change_of, first)) / 2, rtol=1e-6)
    np.testing.assert_allclose(other, sum(map(change_of, second)) / 2, rtol=1e-6)
    shuffled = halves(total_of(updates[::-1]), ("*",))
    assert shuffled is not None
    assert one.tobytes() == shuffled[0].tobytes()


def test_earlier_rounds_come_first() -> None:
    early, late = stepped("a", [5], round=1), stepped("a", [-7], round=2)
    found = halves(total_of([late, early]), ("*",))
    assert found is not None
    np.testing.assert_allclose(found[0], change_of(early), rtol=1e-6)
    np.testing.assert_allclose(found[1], change_of(late), rtol=1e-6)


def test_some_tensors_have_the_coordinates_that_they_have_among_all() -> None:
    updates = [stepped(name, [3, 1]) for name in "ab"]
    everything, some = halves(total_of(updates), ("*",)), halves(total_of(updates), ("b",))
    assert everything is not None
    assert some is not None
    assert some[0].tolist() == everything[0][BODY.span("b")].tolist()


def test_one_client_has_no_halves() -> None:
    assert halves(total_of([stepped("a", [1, 2])]), ("*",)) is None


def test_the_statistics_by_hand() -> None:
    # (1 - 3)^2 / 2 = 2 and (2 - 2)^2 / 2 = 0: mean 1. Cosine (3 + 4) / sqrt(5 * 13).
    one, other = np.array([1.0, 2.0]), np.array([3.0, 2.0])
    assert variance(one, other) == 1.0
    assert cosine(one, other) == pytest.approx(7 / np.sqrt(65))
    assert cosine(one, 0 * other) == 0.0


def measured(number: int, gradient: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> StepTotal:
    """A round of clients that find the slopes of one gradient along a direction each."""
    found = []
    for name in CLIENTS:
        directions = Directions()
        (key,) = directions.keys(SEED, round=number, owner=directions.owner(name), count=1)
        z = np.empty((1, WIDE.size), dtype=np.float32)
        Rademacher().fill(z, key, [0])
        scalar = round(float(gradient @ z[0]) / WORTH)
        found.append(stepped(name, [scalar], round=number, coefficient=-WORTH, layout=WIDE))
    return total_of(found)


def test_variance_and_cosine_are_what_the_law_says() -> None:
    # E[variance] = 2 ||g||^2 / n; the cosine is near (n / 2) / (n / 2 + d) = 32 / 1532.
    gradient = np.random.default_rng(3).normal(size=WIDE.size)
    gradient *= 3.0 / np.linalg.norm(gradient)
    pairs = [halves(measured(number, gradient), ("*",)) for number in range(1, 31)]
    spread = [variance(*pair) for pair in pairs if pair]
    agreement = [cosine(*pair) for pair in pairs if pair]
    assert np.mean(spread) == pytest.approx(2 * 9 / 64, rel=0.08)
    assert np.mean(agreement) == pytest.approx(32 / 1532, abs=3 / np.sqrt(30 * 1500))
