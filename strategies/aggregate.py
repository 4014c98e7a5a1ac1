"""Means over a cohort whose bits do not depend on the order of the updates.

Float addition depends on the order of its terms, integer addition does not. Each element of a delta
is rounded once to a multiple of 2^-34, ``q = rint(delta * 2^34)``, and ``q * num_examples`` is
summed in int64. The sum is the same bits in any order, and over any split of a cohort into parts
that are merged; a client that counts n examples weighs exactly as n clients that count one.

The rounding moves a mean by at most 2^-35 (3e-11). The sum fits while
``sum(num_examples * max|delta|)`` is below 2^29 (5e8); an update that could pass that is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.fixed_point import SCALE, fold
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.decoded import decoded

__all__ = ["FixedPointSum", "WeightedMean"]

_LIMIT = 2**63


@dataclass(eq=False)
class FixedPointSum:
    """A running total; `WeightedMean.add` and `WeightedMean.merge` write into it.

    Attributes:
        layout: the tensors seen so far.
        sums: ``sum(q * num_examples)`` of each element, int64 ``[layout.size]``.
        weights: examples behind each tensor, int64 ``[len(layout.specs)]``.
        weight: examples behind the whole total.
        bound: what no element of `sums` exceeds in magnitude.
    """

    layout: Layout
    sums: NDArray[np.int64]
    weights: NDArray[np.int64]
    weight: int
    bound: int


@dataclass(frozen=True)
class WeightedMean:
    """The mean of the deltas, weighted by their examples (McMahan et al., AISTATS 2017, alg. 1).

    Memory is that of the model, whatever the size of the cohort.

    Attributes:
        absent: what it means that an update lacks a tensor. ``skip``: it has no say in it, and the
            tensor's mean is over the updates that have it. ``unchanged``: it counts as a delta of
            zero. A tensor that no update has stays as it is.
    """

    absent: str = "skip"
    averages = True
    """The next model is the mean of the clients' tensors, each by itself."""

    def __post_init__(self) -> None:
        known = ("skip", "unchanged")
        require(self.absent in known, "absent", self.absent, f"one of {', '.join(known)}")

    def add(self, total: FixedPointSum | None, update: ClientUpdate) -> FixedPointSum:
        """Fold one decoded update into the total, in any order.

        The total may be written into; use what is returned. After an error it is as it was.

        Raises:
            UpdateRefusedError: the update is not decoded, not finite, weighs less than nothing, or
                is so large that the sum could overflow.
            LayoutError: it holds a tensor in another shape than the updates before it.
        """
        delta, weight = decoded(update).dense(), update.num_examples
        if weight < 0:
            raise UpdateRefusedError(f"client {update.client!r}: num_examples = {weight}; below 0")
        whole = _covering(total, delta.layout)
        spans = whole.layout.spans(delta.layout)
        peak = _fold(whole, delta.vector, spans, weight)
        bound = whole.bound
        try:
            bound += max(weight, 1) * _whole(peak, update.client)
            _check_bound(bound, f"client {update.client!r}")
        except UpdateRefusedError:
            _fold(whole, delta.vector, spans, -weight)
            raise
        whole.weights[_positions(whole.layout, delta.layout)] += weight
        whole.weight += weight
        whole.bound = bound
        return whole

    def merge(self, total: FixedPointSum, other: FixedPointSum) -> FixedPointSum:
        """The total of two parts of one cohort; `total` may be written into.

        Raises:
            UpdateRefusedError: the sum could overflow.
            LayoutError: they hold a tensor in two shapes.
        """
        whole = _covering(total, other.layout)
        spans = whole.layout.spans(other.layout)
        _check_bound(whole.bound + other.bound, "merge")
        for here, there in spans:
            whole.sums[here] += other.sums[there]
        whole.weights[_positions(whole.layout, other.layout)] += other.weights
        whole.weight += other.weight
        whole.bound += other.bound
        return whole

    def mean(self, params: Params, total: FixedPointSum) -> Delta:
        """The mean delta over the layout of `params`, zero where no update has a tensor.

        Raises:
            LayoutError: the total has a tensor that `params` lacks or holds in another shape.
        """
        params.layout.spans(total.layout)
        means = np.zeros(params.layout.size, dtype=np.float32)
        for spec, own in zip(total.layout, total.weights.tolist(), strict=True):
            weight = own if self.absent == "skip" else total.weight
            if weight:
                here, there = params.layout.span(spec.name), total.layout.span(spec.name)
                np.divide(total.sums[there], weight * SCALE, out=means[here], casting="same_kind")
        return Delta(params.layout, means)


def _covering(total: FixedPointSum | None, layout: Layout) -> FixedPointSum:
    """`total` itself where it has every tensor of `layout`, else a longer copy."""
    if total is None:
        zeros = np.zeros(layout.size, dtype=np.int64)
        return FixedPointSum(layout, zeros, np.zeros(len(layout.specs), dtype=np.int64), 0, 0)
    if layout is total.layout or layout.specs == total.layout.specs:
        return total
    new = Layout(tuple(spec for spec in layout if spec.name not in total.layout))
    if not new.specs:
        return total
    sums = np.concatenate([total.sums, np.zeros(new.size, dtype=np.int64)])
    weights = np.concatenate([total.weights, np.zeros(len(new.specs), dtype=np.int64)])
    return FixedPointSum(
        Layout.concat((total.layout, new)), sums, weights, total.weight, total.bound
    )


def _positions(whole: Layout, part: Layout) -> NDArray[np.intp] | slice:
    """The place of each tensor of `part` among the tensors of `whole`."""
    if part is whole or part.specs == whole.specs:
        return slice(None)
    place = {name: i for i, name in enumerate(whole.names)}
    return np.array([place[name] for name in part.names], dtype=np.intp)


def _fold(
    total: FixedPointSum, vector: Vector, spans: Sequence[tuple[slice, slice]], weight: int
) -> float:
    """Add a vector to the sums, all that lies below 2^29; its largest magnitude."""
    peaks = [fold(total.sums[here], vector[there], weight) for here, there in spans]
    return max(peaks, default=0.0)


def _whole(peak: float, client: str) -> int:
    """The largest magnitude of ``q`` in a delta."""
    if not math.isfinite(peak):
        raise UpdateRefusedError(f"client {client!r}: the delta is not finite")
    return round(peak * SCALE)


def _check_bound(bound: int, who: str) -> None:
    if bound >= _LIMIT:
        text = f"sum(num_examples * max|delta|) = {bound / SCALE:.3g}; below {_LIMIT / SCALE:.3g}"
        raise UpdateRefusedError(f"{who}: the sum could overflow: {text} is allowed")
