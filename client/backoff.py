"""How long to wait before trying again: for ever, ever more rarely, never all devices at once."""

import random

__all__ = ["Backoff"]


class Backoff:
    """Full jitter: a wait anywhere between 0 and a limit that doubles with every failure.

    Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015): of the known ways this
    one spreads many waiting clients best.

    Args:
        first: limit of the first wait, in seconds.
        most: limit of every wait, in seconds.
        source: of the randomness.
    """

    def __init__(
        self, *, first: float = 1.0, most: float = 300.0, source: random.Random | None = None
    ) -> None:
        self._first, self._most = first, most
        self._random = source or random.SystemRandom()
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def reset(self) -> None:
        """Something went well."""
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait after a failure.

        Args:
            retry_after: seconds that the server asked for. They are waited in full, and the jitter
                comes on top.
        """
        limit = min(self._most, self._first * 2.0 ** min(self._failures, 40))
        self._failures += 1
        return max(retry_after or 0.0, 0.0) + self._random.uniform(0.0, limit)
