import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.tuning.learners.pacing import Pacing, sampled, surest


def test_a_curriculum_adds_a_share_with_every_inference() -> None:
    pacing = Pacing(share=0.1, every=2, after=3)
    # t = round - 3, inferences = ceil(t / 2): 30 * 0.1 = 3 for each
    found = [pacing.of(round, 30) for round in range(1, 10)]
    assert found == [0, 0, 0, 3, 3, 6, 6, 9, 9]
    assert pacing.of(100, 30) == 30
    assert Pacing(share=0.1).of(1, 5) == 1  # half an example: one


def test_a_fixed_number_is_the_same_in_every_round() -> None:
    assert [Pacing("fixed", count=7).of(round, 10) for round in (1, 50)] == [7, 7]
    assert Pacing("fixed", count=7).of(1, 3) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "slow"}, "pacing = 'slow': fixed|pacing = 'slow'.*fixed, curriculum"),
        ({"share": 0.0}, "share = 0.0"),
        ({"every": 0}, "every = 0"),
        ({"after": -1}, "after = -1"),
        ({"count": 0}, "count = 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Pacing(**options)  # type: ignore[arg-type]


def test_the_mix_of_classes_is_the_predicted_one() -> None:
    told = np.array([0] * 12 + [1] * 6 + [2] * 2)
    sure, draws = np.full(20, 0.5), np.random.default_rng(0).random(20)
    picked = sampled(sure, told, 10, draws)
    assert np.bincount(told[picked]).tolist() == [6, 3, 1]
    # 4 of 20: 2.4, 1.2, 0.4: the whole numbers 2, 1, 0, and the rest to the largest remainder
    assert sorted(np.bincount(told[sampled(sure, told, 4, draws)], minlength=3)) in (
        [0, 1, 3],
        [1, 1, 2],
    )
    assert len(np.unique(picked)) == 10


def test_a_surer_prediction_is_drawn_in_proportion() -> None:
    # of two in a class one is drawn: the first with probability 0.9 / (0.9 + 0.3) = 0.75
    draws = np.random.default_rng(1).random((4000, 2))
    told, sure = np.zeros(2, np.int64), np.array([0.9, 0.3])
    first = np.mean([sampled(sure, told, 1, own)[0] == 0 for own in draws])
    assert first == pytest.approx(0.75, abs=0.03)


def test_all_are_taken_where_there_are_not_more() -> None:
    assert sampled(np.ones(3), np.zeros(3, np.int64), 5, np.zeros(3)).tolist() == [0, 1, 2]
    assert len(sampled(np.ones(0), np.zeros(0, np.int64), 5, np.zeros(0))) == 0


def test_the_surest_are_the_same_share_of_each_class() -> None:
    told = np.array([0] * 12 + [1] * 6 + [2] * 2)
    sure = np.concatenate((np.arange(12), np.arange(6), np.arange(2))) / 20 + 0.3
    # a quarter: 3 of 12, 1.5 of 6 and half of 2, rounded up: 3, 2 and 1, the last of each
    assert surest(sure, told, 5).tolist() == [9, 10, 11, 16, 17, 19]
    assert surest(sure, told, 20).tolist() == list(range(20))
    # of equally sure ones the first
    assert surest(np.ones(4), np.zeros(4, np.int64), 2).tolist() == [0, 1]
