import numpy as np
import pytest

from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.perturbation_keys import client_number, key, keys, run_id
from fedloom.core.perturbations import Rademacher
from fedloom.core.steps import POOL, SHARED, Directions, Origin, Steps

LAYOUT = Layout((TensorSpec("a", (2, 3)), TensorSpec("b", (5,))))
SCALARS = np.array([3, 0, -2, 1, 0, 0, 0, 0, 7], dtype=np.int32)  # of two groups


def test_whose_directions_they_are() -> None:
    owners = {s: Directions(s).owner("ann") for s in ("distinct", "candidates", "shared", "pool")}
    own = client_number("ann")
    assert owners == {"distinct": own, "candidates": own, "shared": SHARED, "pool": POOL}
    assert [Directions(s).numbered for s in owners] == [False, True, False, True]


def test_keys_follow_from_run_round_and_owner() -> None:
    found = Directions().keys(7, round=3, owner=11, count=9)
    assert found == keys(run_id(7), 9, round=3, client=11)
    # A pool is the same in every round.
    pool = Directions("pool", 9)
    assert pool.keys(7, round=3, owner=POOL, count=9) == pool.keys(7, round=5, owner=POOL, count=9)
    assert pool.keys(7, round=3, owner=POOL, count=9)[1] == key(
        run_id(7), round=0, client=0, group=1
    )


def test_steps_are_the_sum_of_their_directions() -> None:
    steps = Steps(LAYOUT, SCALARS, 0.5, Directions()).bound(7, round=3, client="ann")
    assert steps.origin == Origin(7, 3, client_number("ann"))
    signs = np.zeros((16, 11), dtype=np.int8)
    for group, name in enumerate(keys(run_id(7), 9, round=3, client=client_number("ann"))):
        Rademacher().fill(signs[8 * group : 8 * group + 8], name, range(8))
    expected = 0.5 * (SCALARS[:, None] * signs[:9].astype(int)).sum(axis=0)
    assert steps.vector().tolist() == expected.tolist()


def test_of_nobody_they_are_no_move() -> None:
    with pytest.raises(LayoutError, match="nobody has said whose directions these are"):
        Steps(LAYOUT, SCALARS, 0.5).vector()


@pytest.mark.parametrize("wrong", [SCALARS.astype(np.int64), SCALARS[None]])
def test_scalars_of_another_kind(wrong: np.ndarray) -> None:
    with pytest.raises(LayoutError, match=r"scalars: expected int32 \[n\]"):
        Steps(LAYOUT, wrong, 0.5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scheme": "mine"}, "scheme = 'mine': one of distinct, shared, pool, candidates"),
        ({"pool": 0}, "pool = 0: 1 to 65536"),
        ({"family": "uniform"}, "family = 'uniform': one of rademacher, gaussian"),
    ],
)
def test_directions_that_there_are_not(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Directions(**options)  # type: ignore[arg-type]
