"""What the rounds of a simulated stage have in common: how clients train here, and on what."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.core.client_vectors import ClientVectors
from fedloom.core.devices import Device
from fedloom.core.layout import Selector
from fedloom.core.registry import create
from fedloom.core.types import ClientId, ClientTask, Params
from fedloom.tuning.base import Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.depth import picked
from fedloom.tuning.learning import Learner
from fedloom.tuning.split_training import SplitTraining

__all__ = ["Federation"]


@dataclass(frozen=True)
class Federation:
    """What dispatching needs, the same for all rounds of a stage.

    Attributes:
        session_of: a model, set up to train what a selector chooses.
        learner: how data becomes updates, where a task does not say otherwise.
        codec: how updates travel, where a task does not say otherwise.
        rows_of: the training examples of a client, by id.
        capacity: how much is trained at once.
        pool: threads that train chunks and encode updates: one more than chunks are trained at
            once lets the two go side by side.
        split: how clients train over a split model; None where they hold all of it.
        device_of: whose time and energy a client takes; None where that is not counted.
        personal: what clients keep for themselves; None where they keep nothing.
    """

    session_of: Callable[[Params, Selector], Session]
    learner: Learner
    codec: Codec
    rows_of: Callable[[ClientId], NDArray[np.int64]]
    capacity: Capacity
    pool: ThreadPoolExecutor
    split: SplitTraining | None = None
    device_of: Callable[[ClientId], Device | None] = lambda client: None
    personal: ClientVectors | None = None

    def learner_of(self, task: ClientTask) -> Learner:
        """Who trains a task."""
        if task.learner is None:
            return self.learner
        return cast(Learner, create("learners", task.learner))

    def codec_of(self, task: ClientTask) -> Codec:
        """What encodes a task's update."""
        return self.codec if task.codec is None else cast(Codec, create("codecs", task.codec))

    def session_for(self, task: ClientTask, params: Params) -> Session:
        """The model `params` set up for a task."""
        return picked(self.session_of(params, task.selectors.train), task.blocks)
