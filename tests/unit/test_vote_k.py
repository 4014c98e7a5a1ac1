import numpy as np
import pytest

from fedloom.tuning.learners.vote_k import vote_k


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_one_is_taken_of_each_neighbourhood() -> None:
    # Each votes for its nearest two: 0-2 among themselves, 3-5 likewise. Everyone has two votes:
    # 0 is the first. The votes of 1 and 2 then count a tenth, 3 to 5 have theirs.
    features = on_circle(0, 1, 2.1, 90, 91, 92.1)
    assert vote_k(features, 2, neighbours=2).tolist() == [0, 3]


def test_a_vote_counts_a_tenth_once_its_own_is_chosen() -> None:
    # Nearest one: 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 4, 4 -> 3. Votes: 1, 2, 0, 1, 1. First 1 (of 0 and
    # 2), then 0 has the vote of 1, which voted for none chosen: 1; 3 and 4 have 1: 0 comes first.
    features = on_circle(0, 1, 2.5, 90, 91)
    assert vote_k(features, 1, neighbours=1).tolist() == [1]
    assert vote_k(features, 2, neighbours=1).tolist() == [0, 1]
    # Nearest two: 0 -> 1 2, 1 -> 0 2, 2 -> 1 0, 3 -> 4 2, 4 -> 3 2. Votes 2, 2, 4, 1, 1. First 2,
    # by 0, 1, 3 and 4. Then 0 has 1 (a tenth) and 2: 1.1; 1 the same, 3 and 4 a tenth.
    assert vote_k(features, 1, neighbours=2).tolist() == [2]
    assert vote_k(features, 2, neighbours=2).tolist() == [0, 2]


@pytest.mark.parametrize("count", [1, 7, 20])
def test_it_is_the_greedy_choice_by_definition(count: int) -> None:
    features = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit.T - 3 * np.eye(20)), axis=1, kind="stable")[:, :5]
    chosen: list[int] = []
    for _ in range(count):
        worth = [10.0 ** -len(set(near[j]) & set(chosen)) for j in range(20)]
        votes = [
            -1.0 if i in chosen else sum(worth[j] for j in range(20) if i in near[j])
            for i in range(20)
        ]
        chosen.append(max(range(20), key=lambda i: (round(votes[i], 9), -i)))
    assert vote_k(features, count, neighbours=5).tolist() == sorted(chosen)


def test_few_examples_are_all_taken_and_zeros_are_nobodys_neighbours() -> None:
    assert vote_k(np.zeros((3, 2), np.float32), 5, neighbours=150).tolist() == [0, 1, 2]
    assert len(vote_k(np.zeros((3, 2), np.float32), 2, neighbours=150)) == 2
