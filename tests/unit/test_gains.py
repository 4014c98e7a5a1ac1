from math import inf

from fedloom.core.job import Stage
from fedloom.server.gains import Best

STAGE = Stage(patience=3, min_gain=0.01)


def test_a_gain_is_more_than_the_least() -> None:
    best = Best.of({"accuracy": 0.5, "loss": 9.0}, 4)
    assert best == Best(0.5, 4)
    assert best.after({"accuracy": 0.51}, 5, STAGE) == Best(0.5, 4)
    assert best.after({"accuracy": 0.52}, 5, STAGE) == Best(0.52, 5)


def test_without_an_accuracy_the_loss_counts() -> None:
    best = Best.of({"loss": 2.0}, 0)
    assert best.after({"loss": 2.5}, 1, STAGE) == best
    assert best.after({"loss": 1.9}, 1, STAGE) == Best(-1.9, 1)
    assert Best.of({}, 0) == Best(-inf, 0)


def test_it_waited_when_patience_is_over() -> None:
    best = Best(0.5, 4)
    assert [best.waited(number, STAGE) for number in (4, 6, 7)] == [False, False, True]
    assert not best.waited(1000, Stage())


def test_an_evaluation_that_did_not_come_when_it_was_due_is_waited_for() -> None:
    best = Best(0.5, 4)
    assert best.after({}, 6, STAGE) == best
    assert best.after({}, 7, STAGE) == Best(0.5, 5)
