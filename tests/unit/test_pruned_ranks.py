"""Ranks that clients have pruned theirs to: remembered, handed out, and let in."""

from pathlib import Path

import numpy as np
import pytest
from lora_rounds import EXAMPLES, locals_of, start, updates_of

from fedloom.codecs.dense import Float32
from fedloom.core.client_vectors import ClientVectors
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.ranks import of_rank
from fedloom.core.types import ClientTask, ClientUpdate
from fedloom.server.admission import Admission
from fedloom.server.pruned_ranks import RECORD, PrunedRanks

TASKS = {
    "a": ClientTask("a", 1, 0),
    "b": ClientTask("b", 1, 0, rank=4),
    "c": ClientTask("c", 1, 0, rank=2),
}


def opened(folder: Path, done: int = 0) -> PrunedRanks:
    run = {"layout": "x"}
    return PrunedRanks(ClientVectors(folder / "r", RECORD, run, done=done, fresh=not done))


def said(client: str, rank: float, round: int = 1) -> ClientUpdate:
    return ClientUpdate(client, round, 1, metrics={"rank": rank, "loss": 1.0})


def dealt(ranks: PrunedRanks) -> dict[str, int | None]:
    return {name: task.rank for name, task in ranks.limited(TASKS).items()}


def test_a_task_is_of_the_rank_that_its_client_has_come_to(tmp_path: Path) -> None:
    ranks = opened(tmp_path)
    ranks.begin(1)
    assert dealt(ranks) == {"a": None, "b": 4, "c": 2}
    for update in (said("a", 3), said("b", 2), said("c", 2), ClientUpdate("d", 1, 1)):
        ranks.note(update)
    ranks.commit(1)
    assert dealt(ranks) == {"a": 3, "b": 2, "c": 2}
    assert dict(TASKS) == {name: TASKS[name] for name in "abc"}  # as they were
    ranks.begin(2)
    ranks.note(said("c", 5, 2))  # the plan's rank may have sunk since: the lower one counts
    assert dealt(ranks)["c"] == 2


def test_a_round_that_is_begun_again_knows_nothing_of_its_first_try(tmp_path: Path) -> None:
    ranks = opened(tmp_path)
    ranks.begin(1)
    ranks.note(said("b", 3))
    ranks.commit(1)
    ranks.begin(2)
    ranks.note(said("b", 1, 2))
    ranks.begin(2)
    assert dealt(ranks)["b"] == 3
    ranks.note(said("b", 2, 2))
    ranks.commit(2)
    assert isinstance(ranks.records, ClientVectors)
    ranks.records.close()
    assert dealt(opened(tmp_path, done=1))["b"] == 3  # the state of round 2 was lost


def admitted(rank: float, asked: int | None = None, *, prunes: bool = True) -> ClientUpdate:
    """An update that is of a rank as it says."""
    params, real = start(), max(1, min(3, int(rank)))
    (update,) = updates_of(params, locals_of(params, [real]), [real])
    assert update.delta is not None
    assert update.num_examples == EXAMPLES[0]
    payload = Float32().encode(update.delta)
    sent = ClientUpdate("c0", 1, 10, payload=payload, metrics={"rank": rank})
    tasks = {"c0": ClientTask("c0", 1, 0, rank=asked)}
    return Admission(tasks, params.layout, Float32().decode, prunes=prunes).admit(sent)


@pytest.mark.parametrize(("rank", "asked"), [(1, None), (2, None), (3, None), (1, 2), (2, 2)])
def test_an_update_may_be_of_a_smaller_rank_than_was_given(rank: int, asked: int | None) -> None:
    found = admitted(rank, asked)
    assert found.delta is not None
    assert found.delta.layout == of_rank(start().layout, rank)
    assert np.isfinite(found.delta.vector).all()


@pytest.mark.parametrize(
    ("rank", "asked", "message"),
    [
        (3, 2, "rank = 3: a whole number from 1 to 2 is allowed"),
        (4, None, "rank = 4: a whole number from 1 to 3 is allowed"),
        (0, None, "rank = 0: a whole"),
        (1.5, None, "rank = 1.5: a whole"),
        (float("nan"), None, "rank = nan: a whole"),
        (float("inf"), None, "rank = inf: a whole"),
    ],
)
def test_a_rank_that_cannot_be_is_refused(rank: float, asked: int | None, message: str) -> None:
    params = start()
    tasks = {"c0": ClientTask("c0", 1, 0, rank=asked)}
    update = ClientUpdate("c0", 1, 10, metrics={"rank": rank})
    admission = Admission(tasks, params.layout, Float32().decode, prunes=True)
    with pytest.raises(UpdateRefusedError, match=message) as caught:
        admission.admit(update)
    assert caught.value.code == "layout"


def test_where_nobody_prunes_an_update_is_of_the_rank_that_was_asked_for() -> None:
    with pytest.raises(UpdateRefusedError, match="cannot be decoded"):
        admitted(1, prunes=False)
