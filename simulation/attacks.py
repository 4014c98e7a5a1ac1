"""What attackers send in place of what they learned, to try robust strategies with.

Every attack says how many of the clients it has: ``clients``, or a ``share`` of all where that is
0. Attackers train like everybody else; then they send something else, with the same examples,
tensors and codec. Those of ``alie`` and ``ipm`` collude: they wait for each other, and know what
all attackers of the round had learned honestly, but nothing of the honest clients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.seeds import Stream

__all__ = [
    "Attack",
    "Forge",
    "Spread",
    "alie",
    "gaussian",
    "ipm",
    "label_flip",
    "largest_hidden",
    "none",
    "sign_flip",
]


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


Forge: TypeAlias = Callable[[Vector, Stream, Spread | None], Vector]


@dataclass(frozen=True)
class Attack:
    """What attackers do, and how many they are.

    Attributes:
        forge: what an attacker sends, float32 ``[n]``, in place of what it learned: given that,
            which is never written to; random numbers of its own, of this round; and what colluding
            attackers know of the same tensors, None for others.
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        colludes: whether attackers know each other's honest updates.
        poisons: whether attackers learn honestly from changed labels.

    Raises:
        ConfigError: a number is out of range.
    """

    forge: Forge
    share: float
    clients: int
    colludes: bool = False
    poisons: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "share", self.share, "0 to 1")
        require(self.clients >= 0, "clients", self.clients, "0 (the share) or more")


def none() -> Attack:
    """Everybody is honest."""
    return Attack(_honest, share=0.0, clients=0)


def sign_flip(share: float = 0.2, clients: int = 0, strength: float = 1.0) -> Attack:
    """The opposite of what was learned, ``-strength delta``.

    The reversed gradient of Blanchard et al., NeurIPS 2017, https://arxiv.org/abs/1703.02757.

    Args:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: what the opposite is multiplied by.

    Raises:
        ConfigError: a number is out of range.
    """
    _check(strength)

    def forge(delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        return delta * np.float32(-strength)

    return Attack(forge, share, clients)


def gaussian(share: float = 0.2, clients: int = 0, strength: float = 1.0) -> Attack:
    """Noise in place of what was learned (Blanchard et al., section 5: "Gaussian" attack).

    Args:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: standard deviation of each coordinate; its mean is 0.

    Raises:
        ConfigError: a number is out of range.
    """
    _check(strength)

    def forge(delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        numbers = noise.generator().standard_normal(delta.size)
        return np.asarray(strength * numbers, dtype=np.float32)

    return Attack(forge, share, clients)


def label_flip(share: float = 0.2, clients: int = 0) -> Attack:
    """Attackers learn class ``C - 1 - c`` where the data says c.

    Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
    USENIX Security 2020, https://arxiv.org/abs/1911.11815, section 5.1.

    Args:
        share: of all clients that attack.
        clients: that attack; 0 for the share.

    Raises:
        ConfigError: a number is out of range.
    """
    return Attack(_honest, share, clients, poisons=True)


def alie(share: float = 0.2, clients: int = 0, strength: float = 0.0) -> Attack:
    """A little is enough: all attackers send their mean less a few standard deviations.

    Baruch, Baruch and Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019, https://arxiv.org/abs/1902.06156, Algorithm 3: ``mean - z deviation``
    of what the attackers learned, with the largest z that hides among honest clients: of n clients
    with m attackers ``s = floor(n / 2 + 1) - m`` honest ones have to be farther from the mean than
    it, so that ``Phi(z) = (n - m - s) / (n - m)``.

    Args:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: z; 0 for the largest that hides, which is 0 itself where attackers are few.

    Raises:
        ConfigError: a number is out of range.
    """
    _check(strength)

    def forge(delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        if spread is None:
            return delta
        z = strength or largest_hidden(spread.clients, spread.attackers)
        return np.asarray(spread.mean - np.float32(z) * spread.deviation)

    return Attack(forge, share, clients, colludes=True)


def ipm(share: float = 0.2, clients: int = 0, strength: float = 0.5) -> Attack:
    """Inner product manipulation: all attackers send ``-strength`` times the mean.

    Xie, Koyejo and Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019, https://arxiv.org/abs/1903.03936, section 4. The paper's attackers know
    the honest clients' mean; here they have that of what they learned themselves.

    Args:
        share: of all clients that attack.
        clients: that attack; 0 for the share.
        strength: the paper's epsilon.

    Raises:
        ConfigError: a number is out of range.
    """
    _check(strength)

    def forge(delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
        return delta if spread is None else spread.mean * np.float32(-strength)

    return Attack(forge, share, clients, colludes=True)


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


def _honest(delta: Vector, noise: Stream, spread: Spread | None) -> Vector:
    return delta


def _check(strength: float) -> None:
    require(0 <= strength < float("inf"), "strength", strength, "0 or more, and finite")
