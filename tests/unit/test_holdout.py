import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import EvaluateConfig
from fedloom.simulation.holdings import DrawnPartition, StoredPartition
from fedloom.simulation.holdout import HeldBack, rows_to_judge

# Clients of 1, 3 and 10 rows.
STORED = StoredPartition(np.arange(14), np.array([0, 1, 4, 14]), names=("ann", "bob", "eve"))


def test_each_client_trains_on_a_part_and_is_judged_on_the_rest() -> None:
    held = HeldBack(STORED, 0.25, seed=3)
    # A quarter of 1 is none (it would have nothing left), of 3 rounds to 1, of 10 (2.5) to 2.
    assert held.sizes.tolist() == [1, 2, 8]
    for client in range(3):
        mine, back = held.rows_of(client), rows_to_judge(held, client)
        assert len(mine) == held.size_of(client) == held.sizes[client]
        assert sorted([*mine, *back]) == STORED.rows_of(client).tolist()
    assert (len(held), held.empty, held.name_of(1), held.index_of("eve")) == (3, 0, "bob", 2)


def test_the_same_rows_are_held_back_whenever_asked() -> None:
    one, two = HeldBack(STORED, 0.5, seed=3), HeldBack(STORED, 0.5, seed=3)
    assert one.held_by(2).tolist() == two.held_by(2).tolist()
    assert one.held_by(2).tolist() != HeldBack(STORED, 0.5, seed=4).held_by(2).tolist()


def test_drawn_clients_hold_back_too() -> None:
    held = HeldBack(DrawnPartition(50, 1000, 5, seed=0), 0.4, seed=0)
    assert (held.size_of(7), len(held.rows_of(7)), len(held.held_by(7))) == (3, 3, 2)
    assert set(held.sizes.tolist()) == {3}


def test_without_a_share_they_are_judged_on_what_they_train_on() -> None:
    assert rows_to_judge(STORED, 1).tolist() == [1, 2, 3]


def test_a_share_is_below_one() -> None:
    with pytest.raises(ConfigError, match=r"evaluate.hold_out = 1.0: .*\[0, 1\)"):
        EvaluateConfig(hold_out=1.0)
