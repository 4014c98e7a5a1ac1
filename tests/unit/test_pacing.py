import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from steps_made import BODY, HEAD, MODEL, stepped, whole

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import ConfigError, RunError
from fedloom.core.steps import Directions
from fedloom.core.types import Client, ClientUpdate, Cohort, Params, State
from fedloom.strategies.holding import held
from fedloom.strategies.pacing import Paced, paced
from fedloom.strategies.step_total import StepTotal
from fedloom.strategies.zeroth_order import zeroth_order

START = State(Params(MODEL, np.zeros(MODEL.size, dtype=np.float32)))
ALWAYS, NEVER = paced(tau=1e9), paced(tau=1e-9)


def gathered(strategy: Paced, *updates: ClientUpdate) -> StepTotal:
    total = None
    for update in updates:
        total = strategy.accumulate(total, update)
    assert total is not None
    return total


def played(strategy: Paced, state: State, round: int, *, scalar: int = 5) -> State:
    """A round of three clients that step along new directions."""
    updates = [stepped(name, [scalar, 2], round=round) for name in "abc"]
    return strategy.apply(state, gathered(strategy, *updates))[0]


def batches_of(strategy: Paced, state: State) -> int:
    cohort = Cohort(state.version + 1, (Client("a", 1),))
    return strategy.configure(state, cohort)["a"].batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau = 0.0: above 0 and finite"),
        ({"least": -1.0}, "least = -1.0: above 0"),
        ({"gate": "luck"}, "gate = 'luck': variance or cosine"),
        ({"tensors": ()}, r"tensors = \(\): at least one"),
        ({"patience": -1}, "patience = -1: 0"),
        ({"lr": 0.0}, "lr = 0.0: above 0"),
        ({"shrink": float("nan")}, "shrink = nan"),
        ({"weigh": "x"}, "weigh = 'x'"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        paced(**options)  # type: ignore[arg-type]


def test_steps_that_agree_move_the_model_like_any_others() -> None:
    state = played(ALWAYS, START, 1)
    plain = zeroth_order(shrink=0.0, weigh="clients")
    total = None
    for name in "abc":
        total = plain.accumulate(total, stepped(name, [5, 2]))
    expected = plain.apply(START, total)[0]
    assert state.params.vector.tobytes() == expected.params.vector.tobytes()
    assert state.notes == {"moves": 1}


def test_steps_that_do_not_agree_wait_for_more_of_the_same_clients() -> None:
    one = played(NEVER, START, 1)
    assert not one.params.vector.any()
    assert (one.version, one.notes["cohort"], one.notes["waited"]) == (1, 1, 1)
    two = played(NEVER, one, 2)
    assert (two.version, two.notes["cohort"], two.notes["waited"]) == (2, 1, 2)
    assert batches_of(NEVER, START) == 0
    assert batches_of(NEVER, two) == 1
    kinds = {kind.round: len(found.scalars) for kind, found in held(two).steps.items()}
    assert kinds == {1: 3, 2: 3}


def test_all_that_waited_is_in_the_mean() -> None:
    # Two rounds of one coefficient: the mean of what each would have done alone.
    waiting = played(NEVER, START, 1)
    after = played(ALWAYS, waiting, 2, scalar=-3)
    first, second = played(ALWAYS, START, 1), played(ALWAYS, START, 2, scalar=-3)
    expected = (first.params.vector + second.params.vector) / 2
    np.testing.assert_allclose(after.params.vector, expected, rtol=1e-5, atol=1e-7)
    assert after.notes == {"moves": 1}
    assert not [name for name in after.slots if name.startswith("held")]


def test_patience_ends() -> None:
    strategy = paced(tau=1e-9, patience=3)
    state = START
    for number in (1, 2):
        state = played(strategy, state, number)
        assert not state.params.vector.any()
    assert played(strategy, state, 3).params.vector.any()


def test_what_waits_survives_a_checkpoint() -> None:
    waiting = played(NEVER, START, 1)
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state", waiting, {})
        loaded, _ = load_state(Path(folder) / "state", MODEL)
    here, there = played(ALWAYS, waiting, 2), played(ALWAYS, loaded, 2)
    assert here.params.vector.tobytes() == there.params.vector.tobytes()


def test_what_waits_of_another_model_is_an_error() -> None:
    waiting = played(NEVER, START, 1)
    other = Params(HEAD, np.zeros(3, dtype=np.float32))
    with pytest.raises(RunError, match=r"tensors .* that the model lacks"):
        held(replace(waiting, params=other))


def test_where_nobody_answers_others_are_asked() -> None:
    waiting = played(NEVER, START, 1)
    state, metrics = NEVER.apply(waiting, None)
    assert (state.version, metrics) == (2, {})
    assert "cohort" not in state.notes
    assert len(held(state).steps) == 1


def test_one_client_alone_waits() -> None:
    total = gathered(ALWAYS, stepped("a", [5, 2]))
    state, metrics = ALWAYS.apply(START, total)
    assert metrics == {"waited": 1}
    assert not state.params.vector.any()


def test_what_comes_number_by_number_moves_once() -> None:
    numbers = [1.0, 2.0, 3.0]
    update = [stepped(n, [5], head=numbers) for n in "ab"]
    waiting, _ = NEVER.apply(START, gathered(NEVER, *update))
    assert not waiting.params.vector.any()
    again = [stepped(n, [5], head=numbers, round=2) for n in "ab"]
    after, _ = ALWAYS.apply(waiting, gathered(ALWAYS, *again))
    np.testing.assert_allclose(after.params.vector[40:], numbers)


def test_without_steps_nothing_waits() -> None:
    state, metrics = NEVER.apply(START, gathered(NEVER, whole("a", [1.0] * 3, layout=HEAD)))
    assert state.params.vector[40:].tolist() == [1.0] * 3
    assert metrics["waited"] == 1


def test_every_second_move_is_told_and_has_the_length_of_what_moved() -> None:
    assert ALWAYS.briefing(START) == {}
    one = played(ALWAYS, START, 1)
    assert ALWAYS.briefing(one) == {}
    two = played(ALWAYS, one, 2)
    guide = ALWAYS.briefing(two)["guide"]
    moved = (two.params.vector - one.params.vector)[:40]
    assert guide.tolist() == moved.tolist()
    assert len(guide) == BODY.size
    waiting = played(NEVER, two, 3)
    assert NEVER.briefing(waiting)["guide"].tolist() == guide.tolist()
    assert paced(guided=False).briefing(two) == {}


def test_the_cosine_gate_asks_for_more_than_chance() -> None:
    # Both halves step along one direction, which they share in all but name: cosine 1.
    strategy = paced(gate="cosine", least=3.0)
    total = gathered(strategy, *(stepped(n, [5]) for n in "ab"))
    _, metrics = strategy.apply(START, total)
    chance = 3 / np.sqrt(40)
    waited = metrics["agreement"] < chance
    assert ("directions" not in metrics) == waited
    assert metrics["variance"] >= 0


def test_it_goes_along_directions_of_clients_own() -> None:
    assert paced().schemes == ("distinct", "candidates")
    assert Directions("candidates").scheme in paced().schemes
