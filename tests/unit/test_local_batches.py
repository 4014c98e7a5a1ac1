import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.types import LocalWork
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment

# Written down once: the same order on every machine and in every version.
GOLDEN_ORDER = [106, 105, 100, 107, 104, 109, 103, 102, 108, 101, 110]

ROWS = np.arange(100, 111, dtype=np.int64)  # eleven examples


def batches(work: LocalWork, *, round: int = 3, client: str = "a") -> list[NDArray[np.int64]]:
    return list(local_batches(Assignment(client, ROWS, round, seed=7), work))


def flat(work: LocalWork, **of: int | str) -> list[int]:
    return [int(i) for batch in batches(work, **of) for i in batch]  # type: ignore[arg-type]


def test_an_epoch_is_every_example_once_and_ends_with_a_shorter_batch() -> None:
    found = batches(LocalWork(batch_size=4))
    assert [len(batch) for batch in found] == [4, 4, 3]
    assert sorted(np.concatenate(found)) == list(ROWS)


def test_each_epoch_has_its_own_order() -> None:
    found = flat(LocalWork(batch_size=4, epochs=2))
    assert sorted(found[:11]) == sorted(found[11:]) == list(ROWS)
    assert found[:11] != found[11:]


def test_steps_take_as_many_passes_as_they_need() -> None:
    found = batches(LocalWork(batch_size=4, steps=5, epochs=9))
    assert [len(batch) for batch in found] == [4, 4, 3, 4, 4]
    epochs = batches(LocalWork(batch_size=4, epochs=2))
    assert all(np.array_equal(a, b) for a, b in zip(found, epochs, strict=False))


def test_at_most_so_many_examples() -> None:
    found = flat(LocalWork(batch_size=4, epochs=3, max_examples=6))
    assert len(found) == 18
    assert len(set(found)) == 6
    assert set(found[:6]) == set(found[6:12])
    assert flat(LocalWork(batch_size=4, max_examples=50)) == flat(LocalWork(batch_size=4))


@pytest.mark.parametrize("other", [{"round": 4}, {"client": "b"}])
def test_order_depends_on_round_and_client_only(other: dict[str, int | str]) -> None:
    work = LocalWork(batch_size=4)
    assert flat(work) == flat(work)
    assert flat(work) != flat(work, **other)
    assert sorted(flat(work, **other)) == list(ROWS)


def test_the_order_never_changes() -> None:
    assert flat(LocalWork(batch_size=4)) == GOLDEN_ORDER


def test_a_batch_as_large_as_the_client() -> None:
    assert [len(batch) for batch in batches(LocalWork(batch_size=64, epochs=2))] == [11, 11]
