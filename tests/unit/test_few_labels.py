from dataclasses import replace

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import DataConfig
from fedloom.simulation.few_labels import few_labels
from fedloom.simulation.holdings import DrawnPartition, StoredPartition
from fedloom.tuning.data import Corpus
from fedloom.tuning.examples import TextExamples

N, CLIENTS = 60, 10
CONFIG = DataConfig(unlabelled=True, labels=12, label_clients=4)
PARTITION = StoredPartition(np.arange(N), np.arange(CLIENTS + 1) * 6)


def corpus(labels: np.ndarray | None) -> Corpus:
    examples = TextExamples(np.arange(N, dtype=np.int32), np.arange(N + 1), labels)
    return Corpus(examples, examples, examples, None, (), ("a", "b"))


def some() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, N)


def known(found: Corpus) -> np.ndarray:
    assert found.train.labels is not None
    return np.flatnonzero(found.train.labels >= 0)


def test_so_many_labels_lie_on_so_many_clients() -> None:
    found, partition = few_labels(corpus(some()), PARTITION, CONFIG, seed=0)
    kept = known(found)
    assert partition is PARTITION
    assert np.bincount(kept // 6, minlength=CLIENTS).tolist().count(3) == 4  # 12 / 4 each
    assert len(kept) == 12
    assert found.train.labels is not None
    assert (found.train.labels[kept] == some()[kept]).all()
    other, _ = few_labels(corpus(some()), PARTITION, CONFIG, seed=1)
    assert known(other).tolist() != kept.tolist()


def test_a_small_gamma_puts_them_on_a_few() -> None:
    config = replace(CONFIG, label_clients=10, labels=10, label_gamma=0.05)
    kept = known(few_labels(corpus(some()), PARTITION, config, seed=0)[0])
    assert len(kept) == 10
    assert np.bincount(kept // 6).max() >= 5


def test_no_client_gets_more_than_it_has() -> None:
    config = replace(CONFIG, label_clients=2, labels=12, label_gamma=0.01)
    kept = known(few_labels(corpus(some()), PARTITION, config, seed=0)[0])
    assert sorted(np.bincount(kept // 6, minlength=CLIENTS))[-2:] == [6, 6]


def test_without_use_for_the_others_they_are_gone() -> None:
    config = replace(CONFIG, unlabelled=False)
    labels = some()
    found, partition = few_labels(corpus(labels), PARTITION, config, seed=0)
    assert (len(found.train), len(partition)) == (12, 4)
    assert isinstance(found.train, TextExamples)
    whole, _ = few_labels(corpus(labels), PARTITION, CONFIG, seed=0)
    assert found.train.tokens.tolist() == known(whole).tolist()  # token i is of row i
    for client in range(4):
        own = found.train.tokens[partition.rows_of(client)]
        assert {f"client-{row // 6}" for row in own} == {partition.name_of(client)}


def test_without_a_number_nothing_changes() -> None:
    given = corpus(some())
    found = few_labels(given, PARTITION, replace(CONFIG, labels=0), seed=0)
    assert found == (given, PARTITION)


def test_what_cannot_be_is_refused() -> None:
    drawn = DrawnPartition(N, 5, 3, 0)
    with pytest.raises(ConfigError, match=r"data\.labels = 12: clients draw their examples"):
        few_labels(corpus(some()), drawn, CONFIG, seed=0)
    with pytest.raises(ConfigError, match=r"data\.label_clients = 11: at most the 10 clients"):
        few_labels(corpus(some()), PARTITION, replace(CONFIG, label_clients=11), seed=0)
    with pytest.raises(
        ConfigError, match=r"data\.labels = 25: at most the 24 labelled examples of"
    ):
        few_labels(corpus(some()), PARTITION, replace(CONFIG, labels=25), seed=0)
    with pytest.raises(ConfigError, match=r"data\.labels = 12: the examples of this task have no"):
        few_labels(corpus(None), PARTITION, CONFIG, seed=0)
