"""A stage's session, for the simulator and a device alike."""

from collections.abc import Callable

import numpy as np

from fedloom.core.layout import Layout, Selector, Vector
from fedloom.core.types import Params
from fedloom.tuning.base import Session

__all__ = ["StageSession"]


class StageSession:
    """The session of a stage, made again only where what does not train comes down otherwise.

    A codec that loses something loses it of the tensors of earlier stages, too: clients compute
    with what they received.

    Args:
        make: sets the model up to train what a selector chooses, from a global model.
    """

    def __init__(self, make: Callable[[Params, Selector], Session]) -> None:
        self._make = make
        self._made: dict[Selector, tuple[Params, Vector, Session]] = {}

    def of(self, params: Params, train: Selector) -> Session:
        """The model set up to train `train` from `params`, as clients received them."""
        known = self._made.get(train)
        if known is not None and known[0] is params:  # of one round all clients have the same
            return known[2]
        trained = set(params.layout.select(train).names)
        still = Layout(tuple(spec for spec in params.layout if spec.name not in trained))
        rest = params.layout.gather(params.vector, still)
        same = known is not None and np.array_equal(rest, known[1])
        session = known[2] if known is not None and same else self._make(params, train)
        self._made[train] = params, rest, session
        return session
