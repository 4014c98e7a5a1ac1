from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from steps_made import HEAD, MODEL, SEED, stepped, whole

from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.steps import Directions
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.step_total import StepTotal, add_update, advance_of, voted

PARAMS = Params(MODEL, np.zeros(MODEL.size, dtype=np.float32))
SHARED = Directions("shared")


def total_of(*updates: ClientUpdate) -> StepTotal:
    total: StepTotal | None = None
    for update in updates:
        total = add_update(total, update)
    assert total is not None
    return total


def moved(total: StepTotal, *, lr: float = 1.0, shrink: float = 0.0) -> Vector:
    return advance_of(PARAMS, total, lr=lr, shrink=shrink).apply(PARAMS, SEED).vector


def change_of(update: ClientUpdate) -> Vector:
    assert update.delta is not None
    assert update.delta.steps is not None
    return update.delta.steps.vector()


def test_steps_of_one_client_are_what_it_did_itself() -> None:
    update = stepped("a", [3, -5, 0, 7], examples=4)
    np.testing.assert_allclose(moved(total_of(update))[:40], change_of(update), rtol=1e-6)


def test_the_mean_is_weighted_by_examples() -> None:
    a, b = stepped("a", [3, -5], examples=1), stepped("b", [4, 2], examples=3)
    expected = (change_of(a) + 3 * change_of(b)) / 4
    np.testing.assert_allclose(moved(total_of(a, b))[:40], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scheme", ["shared", "pool"])
def test_scalars_of_the_same_directions_are_added_first(scheme: str) -> None:
    directions = Directions(scheme, pool=2)
    a = stepped("a", [3, -5], examples=1, directions=directions)
    b = stepped("b", [4, 1], examples=3, directions=directions)
    (move,) = advance_of(PARAMS, total_of(a, b), lr=1, shrink=0).moves
    (part,) = move.contributions
    assert (part.weight, part.scalars.tolist()) == (1, [3 + 3 * 4, -5 + 3 * 1])
    expected = (change_of(a) + 3 * change_of(b)) / 4
    np.testing.assert_allclose(moved(total_of(a, b))[:40], expected, rtol=1e-6, atol=1e-7)


def test_a_step_is_as_long_as_its_directions_are_worth() -> None:
    # Five scalars are not 0, and d = 40: with shrink 0.5, 5 / (5 + 0.5 * 40) = 0.2 of the way.
    total = total_of(stepped("a", [1, 0, 2]), stepped("b", [3, 4, 5]))
    np.testing.assert_allclose(
        moved(total, lr=2, shrink=0.5), 2 * 0.2 * moved(total), rtol=1e-5, atol=1e-7
    )


def test_directions_of_all_kinds_count_for_the_length() -> None:
    # Steps worth other amounts, over the same tensors: 2 + 3 directions, as above.
    total = total_of(stepped("a", [1, 2]), stepped("b", [3, 4, 5], coefficient=-0.5))
    np.testing.assert_allclose(moved(total, shrink=0.5), 0.2 * moved(total), rtol=1e-5, atol=1e-7)


def test_directions_that_clients_share_count_once() -> None:
    # Two directions of two clients in 40 dimensions: 2 / (2 + 0.5 * 40) = 1 / 11.
    total = total_of(*(stepped(name, [1, 2], directions=SHARED) for name in "ab"))
    np.testing.assert_allclose(moved(total, shrink=0.5), moved(total) / 11, rtol=1e-5, atol=1e-7)


def test_a_whole_gradient_and_an_estimate_in_one_round() -> None:
    # Two directions in 40 dimensions weigh 2 / 42 of a whole gradient each example: with 21
    # examples as much as one. Beside 3 examples of a whole gradient it has a quarter of the say.
    # The head comes whole from both: weights 3 and 21.
    dense = whole("a", [*range(40), 1.0, 2.0, 3.0], examples=3, layout=MODEL)
    guess = stepped("b", [6, -2], examples=21, head=[9.0, 9.0, 9.0])
    found = moved(total_of(dense, guess))
    body = 0.75 * np.arange(40) + 0.25 * change_of(guess)
    head = (3 * np.array([1.0, 2.0, 3.0]) + 21 * 9.0) / 24
    np.testing.assert_allclose(found, [*body, *head], rtol=1e-5, atol=1e-5)


def test_tensors_that_only_one_kind_of_client_moves() -> None:
    # "b" is in the whole update only, "a" in both: 32 of 40 coordinates; 4 scalars of 32 + 4.
    only = Layout((TensorSpec("a", (4, 8)),))
    dense = whole("a", [1.0] * 40, examples=2)
    guess = stepped("b", [1, 1, 1, 1], examples=18, layout=only)  # 18 * 4 / 36 = 2: half the say
    found = moved(total_of(dense, guess))
    np.testing.assert_allclose(found[:32], 0.5 + 0.5 * change_of(guess), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[32:40], 1.0)
    assert not found[40:].any()


def test_scalars_that_are_all_zero_move_nothing() -> None:
    assert not moved(total_of(stepped("a", [0, 0])), shrink=0.2).any()


def test_only_what_is_sent_number_by_number() -> None:
    total = total_of(whole("a", [1.0, 2.0, 3.0], layout=HEAD), whole("b", [3.0] * 3, layout=HEAD))
    np.testing.assert_allclose(moved(total, lr=0.5)[40:], [1.0, 1.25, 1.5])


def test_a_vote_is_the_sign_of_the_sum() -> None:
    # Weighted sums 3 - 2 = 1, -1 + 2 = 1, 1 - 1 = 0 (1 example of "a" and of "b", 0 for a draw).
    a = stepped("a", [3, -1, 1], directions=SHARED)
    b = stepped("b", [-2, 2, -1], directions=SHARED)
    (move,) = advance_of(PARAMS, voted(total_of(a, b)), lr=1, shrink=0).moves
    assert move.contributions[0].scalars.tolist() == [1, 1, 0]
    np.testing.assert_allclose(move.worth, -0.25)


def test_the_head_keeps_its_mean_in_a_vote() -> None:
    a = stepped("a", [1], directions=SHARED, head=[1.0, 1.0, 1.0])
    b = stepped("b", [1], directions=SHARED, head=[3.0, 3.0, 3.0])
    found = advance_of(PARAMS, voted(total_of(a, b)), lr=1, shrink=0).apply(PARAMS, SEED)
    np.testing.assert_allclose(found.vector[40:], 2.0)


def unbound(update: ClientUpdate) -> ClientUpdate:
    assert update.delta is not None
    assert update.delta.steps is not None
    return replace(
        update, delta=replace(update.delta, steps=replace(update.delta.steps, origin=None))
    )


REFUSED: list[tuple[Callable[[], ClientUpdate], str]] = [
    (lambda: replace(stepped("b", [1]), delta=None), "the update is not decoded"),
    (lambda: unbound(stepped("b", [1])), "nobody knows its directions"),
    (lambda: stepped("b", [1], examples=-1), "num_examples = -1; below 0"),
    (lambda: stepped("a", [1, 2]), "has steps already"),
    (lambda: stepped("b", [1, 2**31 - 1], examples=2**31), "is allowed"),
    (lambda: stepped("b", [1], head=[np.nan, 0.0, 0.0]), "the delta is not finite"),
]


@pytest.mark.parametrize(("update", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_a_refused_update_leaves_the_total_as_it_was(
    update: Callable[[], ClientUpdate], message: str
) -> None:
    total = total_of(stepped("a", [1, 2], head=[1.0, 1.0, 1.0]), stepped("c", [5]))
    before = moved(total, shrink=0.2).tobytes()
    with pytest.raises(UpdateRefusedError, match=message):
        add_update(total, update())
    assert moved(total, shrink=0.2).tobytes() == before
    assert total.weight == 2


def test_shared_directions_must_be_as_many() -> None:
    total = total_of(stepped("a", [1, 2], directions=SHARED))
    with pytest.raises(UpdateRefusedError, match="1 scalars; 2 are asked for"):
        add_update(total, stepped("b", [1], directions=SHARED))


def test_sums_that_could_overflow_are_refused_before_they_do() -> None:
    # 2^31 examples of a scalar of 2^30 are 2^61; twice that is 2^62, one more than allowed.
    large = [2**30]
    total = total_of(stepped("a", large, examples=2**31, directions=SHARED))
    with pytest.raises(UpdateRefusedError, match="below 4611686018427387904") as caught:
        add_update(total, stepped("b", large, examples=2**31, directions=SHARED))
    assert caught.value.code == "weight"
    assert np.isfinite(moved(total)).all()


def test_an_update_of_nothing_counts_for_nothing() -> None:
    empty = ClientUpdate("a", 1, 3, delta=Delta(Layout(()), np.zeros(0, dtype=np.float32)))
    total = add_update(None, empty)
    assert total.weight == 3
    assert not moved(total).any()
