"""Noise that repeats for who knows its source."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.seeds import stream
from fedloom.tuning.noise import SecretNoise, SeededNoise, normals

VALUES = np.arange(15.0).reshape(3, 5)
SECRET = bytes(range(32))


def test_words_become_normal_numbers() -> None:
    # Uniforms 0, 1/2 and, for the angle, 1/4, 1/2: radii 0 and sqrt(2 log 2); cos, then sin.
    words = np.array([0, 2**63, 2**62, 2**63], dtype=np.uint64)
    radius = math.sqrt(2 * math.log(2))
    np.testing.assert_allclose(normals(words), [0, -radius, 0, 0], atol=1e-15)


def test_the_distribution_is_normal() -> None:
    # Of n numbers the empirical distribution is within 2 / sqrt(n) of the normal one but for one
    # sample in 1,500 (Kolmogorov: 2 exp(-8)).
    n = 100_000
    found = np.sort(normals(stream(3, "test").words(n)))
    exact = np.array([NormalDist().cdf(x) for x in found])
    assert np.abs(exact - (np.arange(n) + 0.5) / n).max() < 2 / math.sqrt(n)


def test_the_largest_word_is_finite() -> None:
    found = normals(np.array([2**64 - 1, 2**64 - 1], dtype=np.uint64))
    assert 8 < np.hypot(*found) < 9  # sqrt(2 * 53 log 2) = 8.57


@pytest.mark.parametrize("source", ["seed", "secret"])
def test_noise_depends_on_leg_step_and_row(source: str) -> None:
    noise = SeededNoise(1, 2, ("a",)) if source == "seed" else SecretNoise(SECRET)
    found = [
        noise(leg, step, row, VALUES)
        for leg in ("forward", "backward")
        for step in (1, 2)
        for row in (0, 1, 2)
    ]
    assert all(each.shape == VALUES.shape for each in found)
    assert len({each.tobytes() for each in found}) == len(found)
    assert np.array_equal(noise("forward", 1, 0, VALUES), found[0])


def test_seeded_noise_is_the_clients_wherever_it_stands() -> None:
    both, one = SeededNoise(1, 2, ("a", "b")), SeededNoise(1, 2, ("b",))
    assert np.array_equal(both("forward", 7, 1, VALUES), one("forward", 7, 0, VALUES))
    other = SeededNoise(1, 3, ("b",))
    assert not np.array_equal(one("forward", 7, 0, VALUES), other("forward", 7, 0, VALUES))


def test_secret_noise_depends_on_secret_and_content() -> None:
    first = SecretNoise(SECRET)("forward", 1, 0, VALUES)
    assert not np.array_equal(first, SecretNoise(SECRET[::-1])("forward", 1, 0, VALUES))
    assert not np.array_equal(first, SecretNoise(SECRET)("forward", 1, 0, VALUES + 1e-9))
    assert np.array_equal(first, SecretNoise(SECRET)("forward", 1, 0, VALUES.copy()))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="secret = '31 bytes': 32 or more"):
        SecretNoise(SECRET[1:])
