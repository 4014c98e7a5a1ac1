"""A change of the model as integer steps along directions that everybody can make.

Zeroth-order and forward-gradient methods move a model along random directions: what is sent of a
move is one number per direction (FedKSeed: Qin et al., ICML 2024; DeComFL: Li et al., ICLR 2025).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError, require
from fedloom.core.gaussian import Gaussian
from fedloom.core.layout import Layout, Vector
from fedloom.core.perturbation_keys import client_number, keys, pool_keys, run_id
from fedloom.core.perturbations import Family, Rademacher
from fedloom.core.replay import Entry, apply, entries_of, replay

__all__ = ["FAMILIES", "POOL", "SHARED", "Directions", "Origin", "Steps"]

FAMILIES: dict[str, Family] = {"rademacher": Rademacher(), "gaussian": Gaussian()}
POOL = 0
"""The number of the directions of a pool; of no client's in practice."""
SHARED = 2**64 - 1
"""The number of the directions that all clients of a round share; of no client's in practice."""


@dataclass(frozen=True)
class Directions:
    """Which directions the clients of a run use: agreed on before any of them is sent.

    Attributes:
        scheme: ``distinct`` (of each client's own in each round), ``shared`` (the same for all
            clients of a round, as in DeComFL), ``pool`` (a fixed pool, as in FedKSeed), or
            ``candidates`` (some of a client's own in a round, chosen by the client, as in FwdLLM).
        pool: directions in the pool, or candidates of each client.
        family: ``rademacher`` or ``gaussian``.
    """

    scheme: str = "distinct"
    pool: int = 4096
    family: str = "rademacher"

    def __post_init__(self) -> None:
        known = ("distinct", "shared", "pool", "candidates")
        require(self.scheme in known, "scheme", self.scheme, f"one of {', '.join(known)}")
        require(1 <= self.pool <= 65536, "pool", self.pool, "1 to 65536")
        families = tuple(FAMILIES)
        require(self.family in families, "family", self.family, f"one of {', '.join(families)}")

    @property
    def numbered(self) -> bool:
        """Whether few of many are used, so that a scalar is sent with its direction's number."""
        return self.scheme in ("pool", "candidates")

    def owner(self, client: str) -> int:
        """The number under which the directions that a client uses stand."""
        if self.scheme == "pool":
            return POOL
        return SHARED if self.scheme == "shared" else client_number(client)

    def keys(self, seed: int, *, round: int, owner: int, count: int) -> list[int]:
        """Keys of the groups that hold an owner's first `count` directions in a round.

        Direction i is number ``i % 8`` of key ``i // 8``.
        """
        run = run_id(seed)
        if self.scheme == "pool":
            return pool_keys(run, count)
        return keys(run, count, round=round, client=owner)

    def entries(
        self, scalars: NDArray[np.integer], *, seed: int, round: int, owner: int
    ) -> list[Entry]:
        """Integer steps along an owner's directions in a round, group by group."""
        keys = self.keys(seed, round=round, owner=owner, count=len(scalars))
        return entries_of(keys, scalars)


@dataclass(frozen=True)
class Origin:
    """Whose directions they are.

    Attributes:
        seed: the run's.
        round: of the run.
        owner: as `Directions.owner` gives it.
    """

    seed: int
    round: int
    owner: int


@dataclass(frozen=True)
class Steps:
    """``coefficient * sum_i scalars[i] z_i`` over the tensors of a layout.

    Attributes:
        layout: the tensors that move; a direction has a coordinate for each of their elements.
        scalars: int32 ``[n]``; where directions are numbered, ``[pool]``.
        coefficient: what one step is worth, times the family's unit.
        directions: which directions.
        origin: whose they are; None until whoever knows the task has said so.
    """

    layout: Layout
    scalars: NDArray[np.int32]
    coefficient: float
    directions: Directions = Directions()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if self.scalars.dtype != np.int32 or self.scalars.ndim != 1:
            got = f"{self.scalars.dtype} {list(self.scalars.shape)}"
            raise LayoutError(f"scalars: expected int32 [n], got {got}")

    def bound(self, seed: int, *, round: int, client: str) -> "Steps":
        """The same steps along the directions of one client in one round."""
        return replace(self, origin=Origin(seed, round, self.directions.owner(client)))

    @property
    def family(self) -> Family:
        """What the directions are drawn from."""
        return FAMILIES[self.directions.family]

    def entries(self) -> list[Entry]:
        """The steps group by group.

        Raises:
            LayoutError: it is not known whose directions they are.
        """
        if self.origin is None:
            raise LayoutError("steps: nobody has said whose directions these are")
        own = self.origin
        return self.directions.entries(
            self.scalars, seed=own.seed, round=own.round, owner=own.owner
        )

    def vector(self) -> Vector:
        """The change itself, float32 ``[layout.size]``, the same bits everywhere."""
        total = replay(self.entries(), self.layout.size, family=self.family)
        start = np.zeros(self.layout.size, dtype=np.float32)
        return apply(start, total, self.coefficient * self.family.unit)
