import numpy as np
import pytest

from fedloom.simulation.holdings import DrawnPartition, StoredPartition

STORED = StoredPartition(rows=np.array([5, 3, 0, 1]), starts=np.array([0, 3, 4]))
NAMED = StoredPartition(STORED.rows, STORED.starts, names=("ann", "bob"))
DRAWN = DrawnPartition(count=100, clients=1_000_000, examples=7, seed=3)


def test_stored_rows_are_cut_by_client() -> None:
    assert len(STORED) == 2
    assert STORED.rows_of(0).tolist() == [5, 3, 0]
    assert STORED.rows_of(1).tolist() == [1]
    assert STORED.sizes.tolist() == [3, 1] == [STORED.size_of(0), STORED.size_of(1)]


def test_names_lead_back_to_numbers() -> None:
    assert [NAMED.name_of(0), NAMED.name_of(1)] == ["ann", "bob"]
    assert NAMED.index_of("bob") == 1
    for partition in (STORED, DRAWN):
        assert partition.index_of(partition.name_of(1)) == 1


@pytest.mark.parametrize("name", ["client-2", "client-01", "client-", "ann", "client-x"])
def test_no_client_answers_to_another_name(name: str) -> None:
    with pytest.raises(KeyError):
        STORED.index_of(name)


def test_drawn_rows_are_different_the_same_each_time_and_the_clients_own() -> None:
    rows = DRAWN.rows_of(999_999)
    assert len(set(rows.tolist())) == 7 == DRAWN.size_of(0)
    assert rows.tolist() == DRAWN.rows_of(999_999).tolist() != DRAWN.rows_of(0).tolist()


def test_drawn_sizes_take_no_memory() -> None:
    assert DRAWN.sizes.shape == (1_000_000,)
    assert DRAWN.sizes.strides == (0,)
    assert DRAWN.sizes[5] == 7
