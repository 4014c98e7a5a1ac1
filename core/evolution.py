"""CMA-ES as a value that can be rebuilt: a seed, and the losses it was told.

The search itself is that of the ``cma`` package (Hansen: The CMA Evolution Strategy, a tutorial,
arXiv:1604.00772). What it samples comes from a stream of ours, so that it touches no global
generator; the same seed and the same losses give the same candidates on one machine. On another
machine they may differ in the last bits (an eigendecomposition is at work), which is why candidates
are sent, and never made again by those who are to evaluate them.
"""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedloom.core.errors import ConfigError, require
from fedloom.core.seeds import Stream

__all__ = ["Evolution", "Search"]

_MAKING = threading.Lock()
"""The package parses its options as Python; CPython 3.11 cannot do that in two threads at once (it
raises ``SystemError: AST constructor recursion depth mismatch``)."""


@dataclass(frozen=True)
class Search:
    """The numbers of a search.

    Attributes:
        k: dimensions of the space that is searched.
        popsize: candidates of a generation.
        sigma: standard deviation of the first generation, in every dimension.

    Raises:
        ConfigError: a number is out of range.
    """

    k: int = 500
    popsize: int = 20
    sigma: float = 0.2

    def __post_init__(self) -> None:
        require(2 <= self.k <= 65536, "k", self.k, "2 to 65536")
        require(4 <= self.popsize <= 65536, "popsize", self.popsize, "4 to 65536")
        require(0 < self.sigma < math.inf, "sigma", self.sigma, "above 0 and finite")


class Evolution:
    """One CMA-ES that starts from zero, between two generations.

    Args:
        search: its numbers.
        key: 128 bits that it draws from, as `fedloom.core.seeds.derive` gives them.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, search: Search, key: int) -> None:
        try:
            import cma
        except ImportError:
            text = "CMA-ES needs the cma package: pip install 'fedloom[blackbox]'"
            raise ConfigError(text) from None
        draw = Stream(key).generator()
        options = {
            "popsize": search.popsize,
            "randn": lambda *shape: draw.standard_normal(shape),
            "seed": math.nan,  # nothing of numpy's global generator is used, or set
            "verbose": -9,
            "verb_log": 0,
        }
        self._search = search
        with _MAKING:
            self._inner: Any = cma.CMAEvolutionStrategy(np.zeros(search.k), search.sigma, options)
        self._asked: NDArray[np.float64] | None = None

    @staticmethod
    def after(search: Search, key: int, told: Iterable[ArrayLike]) -> "Evolution":
        """The search as it is after generations whose losses are known."""
        found = Evolution(search, key)
        for losses in told:
            found.tell(losses)
        return found

    @property
    def candidates(self) -> NDArray[np.float64]:
        """The generation to be evaluated, ``[popsize, k]``: the same until it is told."""
        if self._asked is None:
            self._asked = np.asarray(self._inner.ask(), dtype=np.float64)
        return self._asked

    def tell(self, losses: ArrayLike) -> None:
        """Go on to the next generation.

        Args:
            losses: ``[popsize]``, one of each candidate; only their order counts.

        Raises:
            ConfigError: there are more or fewer, or one is not finite.
        """
        values = np.asarray(losses, dtype=np.float64)
        allowed = f"{self._search.popsize} finite numbers"
        right = values.shape == (self._search.popsize,) and bool(np.isfinite(values).all())
        require(right, "losses", values.tolist(), allowed)
        self._inner.tell(list(self.candidates), values.tolist())
        self._asked = None

    @property
    def mean(self) -> NDArray[np.float64]:
        """The middle of what is searched now, ``[k]``."""
        return np.array(self._inner.mean, dtype=np.float64)

    @property
    def sigma(self) -> float:
        """The step size, which says how wide the search is."""
        return float(self._inner.sigma)
