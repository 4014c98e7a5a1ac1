"""A round's total of steps along known directions: integers are added, directions made once.

What a cohort sends of a move is integers by direction, so their weighted sum has the same bits in
any order; the directions are made in one pass when the round ends (`core.replay`), whatever the
size of the cohort. What updates give number by number is averaged beside it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.decoded import decoded

__all__ = ["Gathered", "Kind", "StepTotal", "add_update", "advance_of", "voted"]

_MOST = 2**62
"""What the sum of all magnitudes of a kind must stay below."""


@dataclass(frozen=True)
class Kind:
    """Steps that may be added: of one round, over the same tensors, each worth the same."""

    layout: Layout
    coefficient: float
    directions: Directions
    seed: int
    round: int


@dataclass(eq=False)
class Gathered:
    """The steps of one kind.

    Attributes:
        scalars: by owner of the directions, int64 ``[n]``: as sent where an owner is one client,
            else weighted and summed.
        weights: by owner: examples behind the scalars; 1 where they are weighted already.
        weight: examples behind all of them.
        clients: updates behind all of them.
        used: directions that moved, over all clients.
        bound: sum of ``weight * |scalar|``.
    """

    scalars: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    weight: int = 0
    clients: int = 0
    used: int = 0
    bound: int = 0


@dataclass(eq=False)
class StepTotal:
    """A running total; `add_update` writes into it.

    Attributes:
        steps: by kind.
        rest: of what is given number by number.
        weight: examples behind the whole total.
    """

    steps: dict[Kind, Gathered] = field(default_factory=dict)
    rest: FixedPointSum | None = None
    weight: int = 0


def add_update(total: StepTotal | None, update: ClientUpdate) -> StepTotal:
    """Fold one admitted update into a total, in any order; after an error it is as it was.

    Raises:
        UpdateRefusedError: the update is not decoded, not finite, or too large; or nobody knows
            whose directions its steps are along.
    """
    total = total or StepTotal()
    delta, weight = decoded(update), update.num_examples
    gathered = None if delta.steps is None else _check(total, delta.steps, update)
    if delta.layout.specs:
        dense = Delta(delta.layout, delta.vector)
        alone = ClientUpdate(update.client, update.round, weight, delta=dense)
        total.rest = WeightedMean().add(total.rest, alone)
    if delta.steps is not None and gathered is not None:
        total.steps[_kind(delta.steps)] = gathered
        _gather(gathered, delta.steps, weight)
    total.weight += weight
    return total


def advance_of(params: Params, total: StepTotal, *, lr: float, shrink: float) -> Advance:
    """The mean of a total's updates, as far as it can be trusted.

    An estimate from P random directions in d dimensions adds noise of about ``d / P`` times the
    gradient's own: beside a client that has the gradient whole, it weighs ``P / (P + d)``. N
    directions in all point ``sqrt(N / (N + d + 1))`` of the way, so what comes of them is scaled by
    ``N / (N + shrink d)``: it moves as far as is worth while.

    Args:
        params: the global model.
        total: of the round.
        lr: server learning rate.
        shrink: share of the dimension that counts as noise (0: no scaling).
    """
    steps = sorted(total.steps.items(), key=_place)  # float sums below, in one order
    trust = {kind: _trust(kind, found) for kind, found in steps}
    whole = {} if total.rest is None else _weights(total.rest)
    weight = {spec.name: whole.get(spec.name, 0.0) for spec in params.layout}
    for kind, found in steps:
        for spec in kind.layout:
            weight[spec.name] += trust[kind] * found.weight
    used: dict[Layout, int] = {}
    for kind, found in steps:
        used[kind.layout] = used.get(kind.layout, 0) + _unlike(found)
    moves = []
    for kind, found in steps:
        many = used[kind.layout]
        scale = lr * trust[kind] * many / max(many + shrink * kind.layout.size, 1e-30)
        scale *= kind.coefficient
        worth = tuple(scale / (weight[spec.name] or 1.0) for spec in kind.layout)
        moves.append(Move(kind.layout, worth, kind.directions, kind.round, _parts(found)))
    return Advance(tuple(moves), _rest(params, total, weight, lr))


def voted(total: StepTotal) -> StepTotal:
    """A total in which every direction that clients share has one step: the sign of its sum.

    FeedSign (Cai, Chen and Zhu, 2025): the majority decides, and nobody's slope counts for more.
    """
    steps = {}
    for kind, found in total.steps.items():
        signs = {owner: np.sign(scalars) for owner, scalars in found.scalars.items()}
        alone = Gathered(signs, dict.fromkeys(signs, 1), weight=1, clients=1)
        alone.used = alone.bound = _unlike(alone)
        steps[kind] = alone
    return StepTotal(steps, total.rest, total.weight)


def _place(item: tuple[Kind, Gathered]) -> tuple[int, str, float, str]:
    """Where a kind stands among the moves, whichever update came first."""
    kind = item[0]
    return kind.round, kind.layout.digest, kind.coefficient, repr(kind.directions)


def _kind(steps: Steps) -> Kind:
    assert steps.origin is not None
    origin = steps.origin
    return Kind(steps.layout, steps.coefficient, steps.directions, origin.seed, origin.round)


def _check(total: StepTotal, steps: Steps, update: ClientUpdate) -> Gathered:
    """What the steps of an update are to be added to, if they can be."""
    if steps.origin is None:
        raise UpdateRefusedError(f"client {update.client!r}: nobody knows its directions")
    found = total.steps.get(_kind(steps), Gathered())
    owner, weight = steps.origin.owner, update.num_examples
    if weight < 0:
        raise UpdateRefusedError(f"client {update.client!r}: num_examples = {weight}; below 0")
    known = found.scalars.get(owner)
    shared = steps.directions.scheme in ("shared", "pool")
    if known is not None and (not shared or len(known) != len(steps.scalars)):
        text = "has steps already" if not shared else f"{len(steps.scalars)} scalars"
        raise UpdateRefusedError(f"client {update.client!r}: {text}; {len(known)} are asked for")
    bound = found.bound + weight * int(np.abs(steps.scalars.astype(np.int64)).sum())
    if bound >= _MOST:
        text = f"sum(num_examples * |scalar|) = {bound}; below {_MOST} is allowed"
        raise UpdateRefusedError(f"client {update.client!r}: {text}", code="weight")
    return found


def _gather(found: Gathered, steps: Steps, weight: int) -> None:
    assert steps.origin is not None
    owner, scalars = steps.origin.owner, steps.scalars.astype(np.int64)
    if steps.directions.scheme in ("shared", "pool"):
        found.scalars[owner] = found.scalars.get(owner, 0) + weight * scalars
        found.weights[owner] = 1
    else:
        found.scalars[owner], found.weights[owner] = scalars, weight
    found.weight += weight
    found.clients += 1
    found.used += int(np.count_nonzero(scalars))
    found.bound += weight * int(np.abs(scalars).sum())


def _trust(kind: Kind, found: Gathered) -> float:
    """What a client's examples weigh beside those of one that sends the whole gradient."""
    each = found.used / max(found.clients, 1)
    return each / (each + kind.layout.size) if each else 0.0


def _unlike(found: Gathered) -> int:
    """Directions along which the model moves: those that clients share count once."""
    return sum(int(np.count_nonzero(scalars)) for scalars in found.scalars.values())


def _weights(rest: FixedPointSum) -> dict[str, float]:
    return dict(zip(rest.layout.names, rest.weights.astype(float).tolist(), strict=True))


def _parts(found: Gathered) -> tuple[Contribution, ...]:
    return tuple(
        Contribution(owner, found.weights[owner], found.scalars[owner])
        for owner in sorted(found.scalars)
    )


def _rest(params: Params, total: StepTotal, weight: dict[str, float], lr: float) -> Delta:
    if total.rest is None:
        return Delta(Layout(()), np.zeros(0, dtype=np.float32))
    layout = total.rest.layout
    own = _weights(total.rest)
    mean = params.layout.gather(WeightedMean().mean(params, total.rest).vector, layout)
    for spec in layout:
        if own[spec.name]:
            mean[layout.span(spec.name)] *= np.float32(lr * own[spec.name] / weight[spec.name])
    return Delta(layout, mean)
