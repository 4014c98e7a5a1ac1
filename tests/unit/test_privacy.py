"""Epsilon of the Gaussian mechanism, beside its definition."""

import math
from statistics import NormalDist

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.privacy import gaussian_epsilon

PHI = NormalDist().cdf


@pytest.mark.parametrize(("noise", "releases"), [(1.0, 1), (2.0, 1), (4.0, 9), (1.5, 2)])
def test_the_delta_of_the_found_epsilon_is_the_asked_one(noise: float, releases: int) -> None:
    mu = 2 * math.sqrt(releases) / noise
    epsilon = gaussian_epsilon(noise, releases, 1e-5)
    delta = PHI(mu / 2 - epsilon / mu) - math.exp(epsilon) * PHI(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(1e-5, rel=1e-3)


def test_it_is_below_the_classical_bound() -> None:
    # Dwork and Roth, 2014, theorem A.1: deviation = 2 C sqrt(2 log(1.25 / delta)) / epsilon, for
    # epsilon below 1.
    epsilon, delta = 0.8, 1e-5
    noise = 2 * math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    assert 0.5 * epsilon < gaussian_epsilon(noise, delta=delta) < epsilon


def test_four_releases_are_one_with_half_the_noise() -> None:
    assert gaussian_epsilon(2.0, 4) == pytest.approx(gaussian_epsilon(1.0), rel=1e-5)


def test_far_out_it_grows_as_the_square() -> None:
    # epsilon / mu - mu / 2 becomes the quantile of delta: epsilon = mu^2 / 2 + 4.2649 mu.
    mu = 2 / 0.001
    found = gaussian_epsilon(0.001)
    assert found == pytest.approx(mu**2 / 2 - NormalDist().inv_cdf(1e-5) * mu, rel=1e-5)


def test_it_ends_somewhere() -> None:
    assert gaussian_epsilon(1e-9) == math.inf
    assert gaussian_epsilon(1e9) < 1e-5


@pytest.mark.parametrize("changes", [{"noise": 0.0}, {"releases": 0}, {"delta": 0.0}])
def test_numbers_out_of_range_are_refused(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        gaussian_epsilon(**({"noise": 1.0} | changes))  # type: ignore[arg-type]
