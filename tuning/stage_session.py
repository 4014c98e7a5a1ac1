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
        train: what trains in the stage.
        make: sets the model up to train from a global model.
    """

    def __init__(self, train: Selector, make: Callable[[Params], Session]) -> None:
        self._train, self._make = train, make
        self._rest: Vector = np.zeros(0, dtype=np.float32)
        self._session: Session | None = None

    def of(self, params: Params) -> Session:
        """The model set up to train from `params`, as clients received them."""
        trained = set(params.layout.select(self._train).names)
        still = Layout(tuple(spec for spec in params.layout if spec.name not in trained))
        rest = params.layout.gather(params.vector, still)
        if self._session is None or not np.array_equal(rest, self._rest):
            self._session, self._rest = self._make(params), rest
        return self._session
