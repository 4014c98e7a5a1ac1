"""What Gaussian noise on what leaves a device is worth, where it is worth something."""

import math

from fedloom.core.errors import require

__all__ = ["gaussian_epsilon"]

MOST = 2.0**40
"""Beyond it nothing is said of epsilon."""


def gaussian_epsilon(noise: float, releases: int = 1, delta: float = 1e-5) -> float:
    """The epsilon of vectors of norm C at most, each sent with noise of deviation ``noise * C``.

    Any such vector may be exchanged for any other: they are 2 C apart at most, so one release is
    the Gaussian mechanism with ``mu = 2 / noise``, and n of them together with ``sqrt(n)`` times
    that (Dong et al., JRSS B 84(1), 2022, corollary 2). Its exact delta is Balle and Wang, ICML
    2018, theorem 8: ``Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu)``.

    It holds for ideal noise that nobody else knows, for these vectors alone: not for what else the
    device sends.

    Args:
        noise: standard deviation as a multiple of the bound.
        releases: vectors that change with what is protected: of a text each of its tokens, every
            time that it is sent.
        delta: above 0, below 1.

    Returns:
        The smallest epsilon, from above to one part in a million.

    Raises:
        ConfigError: a number is out of range.

    >>> round(gaussian_epsilon(2.0), 3)
    4.377
    """
    require(0 < noise < math.inf, "noise", noise, "above 0, and finite")
    require(releases >= 1, "releases", releases, "1 or more")
    require(0 < delta < 1, "delta", delta, "above 0, below 1")
    mu = 2 * math.sqrt(releases) / noise
    low, high = 0.0, 1.0
    while _delta(high, mu) > delta:
        low, high = high, 2 * high
        if high > MOST:
            return math.inf
    while high - low > 1e-6 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high


def _delta(epsilon: float, mu: float) -> float:
    upper = _log_phi(mu / 2 - epsilon / mu)
    lower = epsilon + _log_phi(-mu / 2 - epsilon / mu)
    return math.exp(upper) - math.exp(min(lower, upper))


def _log_phi(x: float) -> float:
    """Logarithm of the normal distribution function; far out the first terms of its tail's series.

    Below -30 the relative error of ``phi(x)/-x * (1 - 1/x^2 + 3/x^4)`` is under 3e-8.
    """
    if x > -30:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    series = 1 - 1 / x**2 + 3 / x**4
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log(series)
