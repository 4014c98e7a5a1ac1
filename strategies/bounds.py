"""How many clients a robust rule needs."""

from collections.abc import Collection, Sized
from dataclasses import dataclass

from fedloom.core.errors import ConfigError, require
from fedloom.core.types import ClientId

__all__ = ["Bound"]


@dataclass(frozen=True)
class Bound:
    """``n >= per f + rest`` for n clients of which f may be malicious.

    Attributes:
        rule: name of the rule, for messages.
        f: how many clients may be malicious.
        per: clients for each of them.
        rest: clients beside them.
    """

    rule: str
    f: int
    per: int
    rest: int

    def __post_init__(self) -> None:
        require(self.f >= 0, "f", self.f, "0 or more")

    @property
    def least(self) -> int:
        """Clients that the rule needs."""
        return self.per * self.f + self.rest

    def check_cohort(self, clients: Collection[ClientId]) -> None:
        """Refuse a round of too few clients before it starts; of nobody it changes nothing.

        Raises:
            ConfigError: there are fewer; the message names f, n, and what is allowed.
        """
        n = len(clients)
        if not n or n >= self.least:
            return
        most = (n - self.rest) // self.per
        allowed = f"f of at most {most}" if most >= 0 else f"{self.rest} clients with f = 0"
        rule = f"n >= {self.per}f + {self.rest}"
        text = f"f = {self.f} with n = {n} clients: {rule} = {self.least} is needed"
        raise ConfigError(f"{self.rule}: {text}, or {allowed}")

    def lacking(self, total: Sized) -> int:
        """Updates that a total lacks for the rule."""
        return max(self.least - len(total), 0)
