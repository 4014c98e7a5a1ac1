import re

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import DataConfig
from fedloom.core.registry import Component, Option, create
from fedloom.simulation.partition import (
    TrainingRows,
    dirichlet,
    iid,
    natural,
    quantity,
    shards,
)
from fedloom.tuning.data import Reading, corpus_from_rows

LABELS = np.repeat(np.arange(10), 100)  # 1,000 rows, 10 classes
ROWS = TrainingRows(1000, LABELS)


def test_natural_gives_owners_their_rows_in_order() -> None:
    rows = TrainingRows(4, None, np.array([2, 0, 2, 0]), ("a", "b", "c"))
    partition = natural()(rows, 0)
    assert [partition.name_of(client) for client in range(2)] == ["a", "c"]
    assert [partition.rows_of(client).tolist() for client in range(2)] == [[1, 3], [0, 2]]
    assert partition.empty == 1


def test_iid_sizes_differ_by_at_most_one() -> None:
    partition = iid(7)(ROWS, 0)
    assert sorted(set(partition.sizes.tolist())) == [142, 143]  # 1000 / 7 = 142.86


def test_iid_label_mix_is_the_same_everywhere() -> None:
    partition = iid(4)(ROWS, 0)
    counts = [np.bincount(LABELS[partition.rows_of(client)]) for client in range(4)]
    # 25 expected of each class; hypergeometric with standard deviation 4.1; five of them
    assert np.abs(np.array(counts) - 25).max() < 21


def test_iid_may_draw_for_more_clients_than_rows() -> None:
    partition = iid(100_000, examples=16)(ROWS, 1)
    assert len(partition) == 100_000
    assert len(set(partition.rows_of(99_999).tolist())) == 16


def test_dirichlet_with_a_large_alpha_is_even_and_with_a_small_one_is_not() -> None:
    def top_share(alpha: float) -> float:
        partition = dirichlet(10, alpha)(ROWS, 0)
        mixes = [np.bincount(LABELS[partition.rows_of(c)]) for c in range(len(partition))]
        return float(np.mean([mix.max() / mix.sum() for mix in mixes]))

    assert top_share(1e4) < 0.13  # 0.1 is even
    assert top_share(0.05) > 0.5


def test_quantity_by_sigma_and_by_alpha_are_unequal() -> None:
    for rule in (quantity(10, sigma=1.5), quantity(10, alpha=0.3)):
        sizes = rule(ROWS, 0).sizes
        assert sizes.max() > 3 * np.median(sizes)


def test_shards_give_few_classes() -> None:
    partition = shards(50, 2)(ROWS, 0)  # 100 shards of 10 rows, each of one class
    assert partition.sizes.tolist() == [20] * 50
    classes = [len(set(LABELS[partition.rows_of(client)].tolist())) for client in range(50)]
    assert set(classes) <= {1, 2}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iid", {"clients": 0}, "partition.clients = 0: a whole number, 1 or more"),
        ("iid", {"clients": True}, "partitions.iid.clients = True: expected a whole number"),
        ("iid", {"clients": 5, "examples": -1}, "partition.examples = -1: a whole number, 0 or"),
        ("iid", {"client": 5}, "unknown option 'client'; known: clients, examples; did you mean"),
        ("iid", {}, "partitions.iid: missing a required argument: 'clients'"),
        ("dirichlet", {"clients": 5, "alpha": 0}, "partition.alpha = 0.0: a number above 0"),
        (
            "dirichlet",
            {"clients": 5, "alpha": "a"},
            "partitions.dirichlet.alpha = 'a': expected a number",
        ),
        ("quantity", {"clients": 5}, "partition.sigma = 0.0: a number above 0"),
        ("quantity", {"clients": 5, "sigma": 1.0, "alpha": 1.0}, "give sigma or alpha, not both"),
        ("shards", {"clients": 5, "per_client": 0}, "partition.per_client = 0: a whole number"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Option], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        create("partitions", Component(name, options))


def test_rules_say_what_the_data_lack() -> None:
    bare = TrainingRows(10)
    with pytest.raises(ConfigError, match=r"'natural': the data name no clients: set data\.client"):
        natural()(bare, 0)
    with pytest.raises(ConfigError, match=r"'dirichlet': the examples have no labels: choose"):
        dirichlet(2, 1.0)(bare, 0)
    with pytest.raises(ConfigError, match=r"'shards': the examples have no labels"):
        shards(2)(bare, 0)
    with pytest.raises(ConfigError, match=r"clients = 11: at most the 10 training rows, or set"):
        iid(11)(bare, 0)
    with pytest.raises(ConfigError, match=r"examples = 11: at most the 10 training rows"):
        iid(5, examples=11)(bare, 0)
    with pytest.raises(ConfigError, match=r"clients = 6: at most 5: 10 rows, 2 shards each"):
        shards(6)(TrainingRows(10, np.zeros(10, np.int64)), 0)


def test_a_corpus_says_what_a_rule_needs() -> None:
    data = {"text": np.zeros((2, 1, 1)), "label": [1, 0], "who": ["b", "a"], "s": ["train"] * 2}
    config = DataConfig(client="who", split="s")
    rows = TrainingRows.of(corpus_from_rows(data, config, Reading("classify-image")))
    assert rows.count == 2
    assert rows.labels is not None
    assert rows.labels.tolist() == [1, 0]
    assert natural()(rows, 0).rows_of(0).tolist() == [1]
