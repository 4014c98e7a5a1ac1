import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions
from fedloom.core.subspaces import Subspace, grain, rounded, scale_for

LAYOUT = Layout((TensorSpec("a", (7, 30)), TensorSpec("b", (13,))))


def subspace(first: int = 0, k: int = 20, family: str = "rademacher") -> Subspace:
    return Subspace(LAYOUT, Directions("pool", 60, family), first, k, 2.0**-9)


@pytest.mark.parametrize("family", ["rademacher", "gaussian"])
@pytest.mark.parametrize("first", [0, 13, 40])
def test_changes_have_the_bits_of_the_steps_that_are_sent(first: int, family: str) -> None:
    space = subspace(first, 20, family)
    points = np.random.default_rng(0).integers(-32767, 32768, (5, 20))
    changes = space.changes(points, 7)
    for point, change in zip(points, changes, strict=True):
        steps = space.steps(point).bound(7, round=3, client="any")
        assert change.tobytes() == steps.vector().tobytes()


def test_a_point_is_the_sum_of_its_coordinates_directions() -> None:
    space = subspace(5, 20)
    basis = space.basis(7)
    assert set(np.unique(basis)) == {-1.0, 1.0}
    point = np.arange(20)
    want = (point[:, None] * basis).sum(0) * 2.0**-9
    assert np.array_equal(space.changes(point[None], 7)[0], want.astype(np.float32))
    assert np.array_equal(space.basis(7, 64, 100), basis[:, 64:100])


def test_subspaces_of_other_directions_are_almost_at_right_angles() -> None:
    # Signs of 223 coordinates: a cosine is 1 / sqrt(223) = 0.067 in size.
    one, two = subspace(0).basis(7), subspace(20).basis(7)
    cosines = one @ two.T / LAYOUT.size
    assert np.abs(cosines).max() < 6 * 0.067
    assert not np.array_equal(one, subspace(0).basis(8))


def test_a_large_subspace_is_made_in_slices() -> None:
    wide = Layout((TensorSpec("a", (100, 1001)),))
    space = Subspace(wide, Directions("pool", 300), 0, 300, 0.5)
    point = np.random.default_rng(1).integers(-9, 9, (1, 300))
    steps = space.steps(point[0]).bound(7, round=1, client="any")
    assert np.array_equal(space.changes(point, 7)[0], steps.vector())


def test_coordinates_are_integers_of_a_power_of_two() -> None:
    # log2(0.2) = -2.3, so 2^-3 2^-8; 2^0 2^-8.
    assert grain(0.2) == 2.0**-11
    assert grain(1.0) == 2.0**-8
    assert rounded([0.3, -0.3, 1e9], 0.25).tolist() == [1, -1, 32767]


def test_the_first_candidates_change_parameters_by_alpha_times_their_size() -> None:
    # Root mean square 3; 0.5 * 3 / (sqrt(64) * 0.25) = 0.75, of which 1 is the nearest power of two
    # (log2 0.75 = -0.415). All zero counts as 1: 0.5 / 2 = 0.25.
    start = np.array([3.0, -3.0], dtype=np.float32)
    assert scale_for(start, alpha=0.5, k=64, sigma=0.25) == 1.0
    assert scale_for(np.zeros(2, dtype=np.float32), alpha=0.5, k=64, sigma=0.25) == 0.25
    # As one draws them: coordinates of deviation sigma along k directions of signs.
    draw = np.random.default_rng(0)
    x = draw.normal(scale=0.25, size=(2000, 64)) @ draw.choice([-1.0, 1.0], (64, 30)) * 0.75
    assert x.std() == pytest.approx(0.5 * 3, rel=0.03)


@pytest.mark.parametrize(("first", "k"), [(0, 61), (41, 20), (0, 0), (-1, 5)])
def test_a_pool_that_is_too_small(first: int, k: int) -> None:
    with pytest.raises(ConfigError, match=f"k = {k}: at most the 60 directions of the pool"):
        subspace(first, k)


def test_only_pools_have_subspaces() -> None:
    with pytest.raises(ConfigError, match="scheme = 'distinct': pool"):
        Subspace(LAYOUT, Directions("distinct"), 0, 5, 1.0)
