"""How the slope of a loss along a direction is found."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.learners.spot import Spot, Trials

__all__ = ["Gauge"]


class Gauge(Protocol):
    """Finds slopes."""

    def at_once(self, tokens: int, device: torch.device) -> int:
        """Directions of one client that run together; bounds the memory of a pass.

        Args:
            tokens: of the batches of all clients that take part.
            device: where they run.
        """
        ...

    @property
    def passes(self) -> int:
        """Forward passes that one direction takes."""
        ...

    def check(self, spot: Spot, rows: Rows) -> None:
        """Look at the first batch of a client's round before anything moves.

        Args:
            spot: where all clients start; one takes part.
            rows: the batch of that client.

        Raises:
            ConfigError: slopes cannot be found like this.
        """
        ...

    def slopes(self, spot: Spot, trials: Trials, here: Losses) -> NDArray[np.float64]:
        """Slopes along directions, float64 ``[r]``.

        The slope of a trial on part of a batch is that of its share in the client's mean loss: the
        slopes of all parts add up.

        Args:
            spot: where the clients stand.
            trials: what to look along.
            here: the losses where they stand.
        """
        ...
