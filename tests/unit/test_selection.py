import pytest

from fedloom.core.seeds import stream
from fedloom.core.types import Client
from fedloom.server.selection import choose, count, placed

THERE = [Client(f"c{i:02d}", i + 1) for i in range(20)]


def test_the_choice_is_the_simulations() -> None:
    expected = stream(7, "cohort", round=3).choose(20, 5).tolist()
    assert choose(THERE, 5, seed=7, number=3) == tuple(THERE[i] for i in expected)


def test_other_rounds_and_attempts_ask_others() -> None:
    found = {
        choose(THERE, 5, seed=7, number=number, attempt=attempt)
        for number in (1, 2)
        for attempt in (1, 2)
    }
    assert len(found) == 4


def test_where_fewer_are_there_all_are_asked() -> None:
    assert choose(THERE[:3], 5, seed=7, number=1) == tuple(THERE[:3])
    assert choose([], 5, seed=7, number=1) == ()


@pytest.mark.parametrize(
    ("share", "size", "expected"),
    [(1.3, 10, 13), (0.5, 3, 2), (1.1, 10, 11), (0.3, 10, 3), (0.01, 10, 1), (1.0, 0, 1)],
)
def test_shares_are_rounded_up(share: float, size: int, expected: int) -> None:
    assert count(share, size) == expected  # 1.1 * 10 is 11.000000000000002 in floats


def test_who_answered_keeps_the_place() -> None:
    ann, bob, cy, dan, eve = (Client(name, 1) for name in ("ann", "bob", "cy", "dan", "eve"))
    before = [ann, bob, cy, dan]
    assert placed(before, [bob, dan], [eve, cy]) == (eve, bob, cy, dan)
    assert placed(before, [ann], [eve]) == (ann, eve)  # nobody whose place would be another's
    assert placed(before, [dan], [eve]) == (eve, ann, bob, dan)  # two are asked once more
    assert placed(before, [dan], [bob, ann]) == (bob, ann, cy, dan)
    assert placed([ann], [ann], [bob, cy]) == (ann, bob, cy)
