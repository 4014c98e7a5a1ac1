import tracemalloc

import numpy as np
import pytest

from fedloom.core.types import Client, LocalWork
from fedloom.simulation.holdings import DrawnPartition, StoredPartition
from fedloom.simulation.partition import TrainingRows, iid, shards
from fedloom.simulation.population import Population

SMALL = Population(
    StoredPartition(np.array([0, 1, 2, 3]), np.array([0, 1, 4]), names=("ann", "bob")), seed=5
)


def test_a_client_is_made_when_asked_for() -> None:
    assert SMALL.client(1) == Client("bob", 3)
    assert SMALL.rows_of("bob").tolist() == [1, 2, 3]
    with pytest.raises(KeyError):
        SMALL.rows_of("eve")


def test_a_cohort_carries_the_rounds_facts() -> None:
    cohort = SMALL.cohort(3, 1, work=LocalWork(lr=0.5))
    assert (cohort.round, cohort.seed, cohort.work.lr) == (3, 5, 0.5)
    assert len(cohort.clients) == 1


def test_a_cohort_is_everybody_where_fewer_are_registered() -> None:
    assert SMALL.cohort(1, 10).clients == (Client("ann", 1), Client("bob", 3))


def test_the_same_round_chooses_the_same_clients_and_another_round_others() -> None:
    population = Population(DrawnPartition(10, 1000, 2, seed=0), seed=1)
    assert population.cohort(1, 20) == population.cohort(1, 20)
    assert population.cohort(1, 20).clients != population.cohort(2, 20).clients


def test_every_client_is_chosen_equally_often() -> None:
    population = Population(DrawnPartition(10, 20, 2, seed=0), seed=1)
    chosen = [c.id for round in range(1, 1001) for c in population.cohort(round, 5).clients]
    counts = np.unique(chosen, return_counts=True)[1]
    # 250 of 1,000 rounds expected; binomial standard deviation 13.7; five of them
    assert len(counts) == 20
    assert np.abs(counts - 250).max() < 69


def test_a_million_registered_clients_cost_no_memory() -> None:
    tracemalloc.start()
    population = Population(iid(1_000_000, examples=16)(TrainingRows(5000), 0), seed=0)
    cohort = population.cohort(1, 1000)
    rows = population.rows_of(cohort.clients[-1].id)
    skew = population.skew(np.arange(5000) % 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 16
    assert skew.clients == 1_000_000
    assert skew.looked_at == 2000
    assert peak < 2e6  # a cohort of 1,000 and a look at 2,000; a list of the clients is over 50 MB


def test_a_million_stored_clients_cost_bytes_each() -> None:
    count = 1_000_000
    population = Population(iid(count)(TrainingRows(count), 0), seed=0)
    tracemalloc.start()
    population.cohort(1, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    partition = population.partition
    assert isinstance(partition, StoredPartition)
    assert partition.rows.nbytes + partition.starts.nbytes == 16 * count + 8


def test_skew_by_hand() -> None:
    # ann: row 0, class 0. bob: rows 1-3, classes 0, 1, 1. All: half 0, half 1.
    skew = SMALL.skew(np.array([0, 0, 1, 1]))
    assert skew.clients == skew.looked_at == 2
    # ann |1 - 1/2| + |0 - 1/2| over 2 = 1/2; bob |1/3 - 1/2| + |2/3 - 1/2| over 2 = 1/6
    assert skew.total_variation == pytest.approx((1 / 2 + 1 / 6) / 2)
    assert skew.top_share == pytest.approx((1 + 2 / 3) / 2)
    assert (skew.size_min, skew.size_median, skew.size_mean, skew.size_max) == (1, 2, 2, 3)
    assert skew.gini == pytest.approx(0.25)  # sizes 1, 3: |1 - 3| * 2 / (2 * 2^2 * mean 2)


def test_small_clients_may_be_passed_over_in_the_label_statistics() -> None:
    skew = SMALL.skew(np.array([0, 0, 1, 1]), least=2)
    assert skew.top_share == pytest.approx(2 / 3)
    assert skew.size_min == 1


def test_without_labels_only_sizes_are_told() -> None:
    skew = SMALL.skew(None)
    assert skew.total_variation is skew.top_share is None
    assert skew.size_max == 3


def test_one_class_a_client_is_far_from_the_mix_of_all() -> None:
    labels = np.repeat(np.arange(4), 10)
    skew = Population(shards(4, 1)(TrainingRows(40, labels), 0)).skew(labels)
    assert skew.total_variation == pytest.approx(0.75)  # |1 - 1/4| + 3 * |0 - 1/4| over 2
    assert skew.top_share == 1.0
    assert skew.gini == 0.0
