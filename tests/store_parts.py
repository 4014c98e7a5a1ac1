"""What tests of the server's store have in common."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A certificate, as far as the store looks at it."""

    serial: int


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
