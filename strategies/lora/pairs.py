"""The pairs of factors that LoRA consists of, as a model has them and as clients send them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.types import Delta, Params
from fedloom.strategies.held_cohort import HeldCohort, HeldUpdate
from fedloom.strategies.lora.algebra import Factors, Matrix

__all__ = ["Member", "Pair", "averaged", "members", "pairs_of", "require_side"]

_A, _B = "lora_A", "lora_B"


@dataclass(frozen=True)
class Pair:
    """The factors of one module.

    Attributes:
        a: name of A ``[r, d_in]``.
        b: name of B ``[d_out, r]``.
        side_a: name of the server's own A beside them; empty where there is none.
        side_b: name of its B.
    """

    a: str
    b: str
    side_a: str = ""
    side_b: str = ""

    def factors(self, params: Params) -> Factors:
        """The pair as the model has it."""
        return Factors(_wide(params, self.b), _wide(params, self.a))

    def side(self, params: Params) -> Factors:
        """What the server has beside it."""
        return Factors(_wide(params, self.side_b), _wide(params, self.side_a))


@dataclass(frozen=True, eq=False)
class Member:
    """One client's pair of one module.

    Attributes:
        update: whose it is.
        weight: its share p of the examples of those that sent some of the pair.
        factors: its B ``[d_out, r_k]`` and A ``[r_k, d_in]``: what the model had, and its delta.
    """

    update: HeldUpdate
    weight: float
    factors: Factors


def pairs_of(layout: Layout) -> list[Pair]:
    """The pairs of a model of which something trains, in the order of its tensors."""
    found = []
    for spec in layout:
        name, other = spec.name, spec.name.replace(_A, _B)
        if spec.trains and _A in name and other in layout:
            module = name.partition(f".{_A}")[0]
            side = f"{module}.side_A", f"{module}.side_B"
            found.append(Pair(name, other, *(side if side[0] in layout else ())))
    return found


def require_side(layout: Layout, name: str) -> None:
    """Check that every pair has a side-car.

    Raises:
        ConfigError: one has none.
    """
    lacking = [pair.a for pair in pairs_of(layout) if not pair.side_a]
    if lacking:
        text = f"the adapter has no side-car at {lacking[0]}; adapter.side = R gives it one"
        raise ConfigError(f"strategy {name}: {text}")


def members(params: Params, pair: Pair, total: HeldCohort) -> Iterator[Member]:
    """The clients that sent some of a pair, by id; a factor that one lacks is as the model has it.

    Args:
        params: the model before the round.
        pair: which.
        total: what came.
    """
    there = [u for u in total.updates if pair.a in u.layout or pair.b in u.layout]
    examples = sum(update.num_examples for update in there)
    own = pair.factors(params)
    for update in there:
        da, db = (total.tensor(update, name) for name in (pair.a, pair.b))
        rank = len(da) if da is not None else db.shape[1] if db is not None else 0
        a, b = own.a[:rank], own.b[:, :rank]
        factors = Factors(b if db is None else b + db, a if da is None else a + da)
        yield Member(update, update.num_examples / max(examples, 1), factors)


def averaged(params: Params, total: HeldCohort, others: Layout) -> Delta:
    """The mean change of some tensors, weighted by the examples of the clients that have each."""
    vector = np.zeros(others.size, dtype=np.float32)
    for spec in others:
        has = [update for update in total.updates if spec.name in update.layout]
        weight, mean = sum(update.num_examples for update in has), np.zeros(spec.shape)
        for update in has:
            change = total.tensor(update, spec.name)
            if change is not None and weight:
                mean += (update.num_examples / weight) * change.astype(np.float64)
        vector[others.span(spec.name)] = mean.reshape(-1)
    return Delta(others, vector)


def _wide(params: Params, name: str) -> Matrix:
    return params.layout.view(params.vector, name).astype(np.float64)
