"""What attackers send in place of what they learned, to try robust strategies with.

Every attack says how many of the clients it has: ``clients``, or a ``share`` of all where that is
0. Attackers train like everybody else; then they send something else, with the same examples,
tensors and codec. Those of ``alie`` and ``ipm`` collude: they wait for each other, and know what
all attackers of the round had learned honestly, but nothing of the honest clients.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.seeds import Stream

__all__ = ["Alie", "Attack", "Gaussian", "Ipm", "LabelFlip", "NoAttack", "SignFlip", "Spread"]


@dataclass(frozen=True)
class Spread:
    """What colluding attackers know of a round.

    Attributes:
        mean: of what they learned honestly, float32 ``[n]``.
        deviation: its standard deviation in each coordinate, float32 ``[n]``.
        clients: in the round.
        attackers: of them.
    """

    mean: Vector
    deviation: Vector
    clients: int
    attackers: int

    def of(self, layout: Layout, part: Layout) -> "Spread":
        """The same of some of the tensors of `layout`."""
        mean, deviation = (layout.gather(v, part) for v in (self.mean, self.deviation))
        return Spread(mean, deviation, self.clients, self.attackers)


class Attack(Protocol):
    """An attack; ``poisons`` says that it changes labels, ``colludes`` that `forged` has a spread.

    One that does neither changes updates one by one.
    """

    @property
    def share(self) -> float:
        """Share of all clients that attack."""
        ...

    @property
    def clients(self) -> int:
        """How many clients attack; 0 for the share."""
        ...

    @property
    def colludes(self) -> bool:
        """Whether attackers know each other's honest updates."""
        ...

    @property
    def poisons(self) -> bool:
        """Whether attackers learn honestly from changed labels."""
        ...

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """What an attacker sends in place of `delta`, float32 ``[n]``.

        Args:
            delta: what it learned; never written to.
            noise: random numbers of its own, of this round.
            spread: what colluding attackers know of the same tensors; None for others.
        """
        ...


@dataclass(frozen=True)
class NoAttack:
    """Everybody is honest."""

    share: float = 0.0
    clients: int = 0
    colludes: bool = False
    poisons: bool = False

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """The delta."""
        return delta


def none() -> NoAttack:
    """Everybody is honest."""
    return NoAttack()


@dataclass(frozen=True)
class SignFlip:
    """The opposite of what was learned, ``-strength delta``.

    The reversed gradient of Blanchard et al., NeurIPS 2017, https://arxiv.org/abs/1703.02757.

    Attributes:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: what the opposite is multiplied by.
    """

    share: float = 0.2
    clients: int = 0
    strength: float = 1.0
    colludes = False
    poisons = False

    def __post_init__(self) -> None:
        _check(self.share, self.clients, self.strength)

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """The delta times ``-strength``."""
        return delta * np.float32(-self.strength)


@dataclass(frozen=True)
class Gaussian:
    """Noise in place of what was learned (Blanchard et al., section 5: "Gaussian" attack).

    Attributes:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: standard deviation of each coordinate.
    """

    share: float = 0.2
    clients: int = 0
    strength: float = 1.0
    colludes = False
    poisons = False

    def __post_init__(self) -> None:
        _check(self.share, self.clients, self.strength)

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """Independent normal numbers of mean 0."""
        numbers = noise.generator().standard_normal(delta.size)
        return np.asarray(self.strength * numbers, dtype=np.float32)


@dataclass(frozen=True)
class LabelFlip:
    """Attackers learn class ``C - 1 - c`` where the data says c.

    Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
    USENIX Security 2020, https://arxiv.org/abs/1911.11815, section 5.1.

    Attributes:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
    """

    share: float = 0.2
    clients: int = 0
    colludes = False
    poisons = True

    def __post_init__(self) -> None:
        _check(self.share, self.clients, 1.0)

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """The delta: it was learned from changed labels."""
        return delta


@dataclass(frozen=True)
class Alie:
    """A little is enough: all attackers send their mean less a few standard deviations.

    Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019, https://arxiv.org/abs/1902.06156, Algorithm 3: ``mean - z deviation``
    of what the attackers learned, with the largest z that hides among honest clients: of n clients
    with m attackers ``s = floor(n / 2 + 1) - m`` honest ones have to be farther from the mean than
    it, so that ``Phi(z) = (n - m - s) / (n - m)``.

    Attributes:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: z; 0 for the largest that hides, which is 0 itself where attackers are few.
    """

    share: float = 0.2
    clients: int = 0
    strength: float = 0.0
    colludes = True
    poisons = False

    def __post_init__(self) -> None:
        _check(self.share, self.clients, self.strength)

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """The mean less z deviations."""
        if spread is None:
            return delta
        z = self.strength or largest_hidden(spread.clients, spread.attackers)
        return np.asarray(spread.mean - np.float32(z) * spread.deviation)


@dataclass(frozen=True)
class Ipm:
    """Inner product manipulation: all attackers send ``-strength`` times the mean.

    Xie, Koyejo and Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019, https://arxiv.org/abs/1903.03936, section 4. The paper's attackers know
    the honest clients' mean; here they have that of what they learned themselves.

    Attributes:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: the paper's epsilon.
    """

    share: float = 0.2
    clients: int = 0
    strength: float = 0.5
    colludes = True
    poisons = False

    def __post_init__(self) -> None:
        _check(self.share, self.clients, self.strength)

    def forged(self, delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        """The mean times ``-strength``."""
        return delta if spread is None else spread.mean * np.float32(-self.strength)


def largest_hidden(clients: int, attackers: int) -> float:
    """ALIE's z, never below 0.

    >>> round(largest_hidden(50, 12), 3)  # s = 26 - 12 = 14; Phi(z) = 24 / 38
    0.336
    """
    honest = clients - attackers
    supporters = clients // 2 + 1 - attackers
    if honest <= 0 or supporters <= 0:
        supporters, honest = 1, max(honest, 2)
    return max(NormalDist().inv_cdf(max(honest - supporters, 1) / honest), 0.0)


def _check(share: float, clients: int, strength: float) -> None:
    require(0 <= share <= 1, "share", share, "0 to 1")
    require(clients >= 0, "clients", clients, "0 (the share) or more")
    require(0 <= strength < float("inf"), "strength", strength, "0 or more, and finite")
