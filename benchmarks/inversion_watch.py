"""What arrives at a far side: hidden states and gradients behind guard and codec."""

import numpy as np
import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.packing import pack
from fedloom.core.seeds import stream
from fedloom.core.split import SplitConfig
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.far import Far, FarLosses
from fedloom.tuning.guard import guarded
from fedloom.tuning.noise import SeededNoise
from fedloom.tuning.targets import Places

__all__ = ["Watching", "arriving"]


class Watching:
    """A far side that writes down what passes.

    Args:
        far: who computes; None to give back what comes.
        codec: of what goes up.

    Attributes:
        packings: where tokens lie, by step.
        arrived: hidden states that came, by step.
        sent: what was answered, by step.
        gradients: gradients that came, by step.
    """

    def __init__(self, far: Far | None, codec: str) -> None:
        self._far, self._codec = far, codec_named(codec)
        self.packings: dict[int, Packing] = {}
        self.arrived: dict[int, Tensor] = {}
        self.sent: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `Far.forward`."""
        self.packings[step], self.arrived[step] = packing, self._through(step, hidden)
        out = self.arrived[step]
        if self._far is not None:
            out = self._far.forward(step, out, packing, train=train)
        self.sent[step] = out
        return out

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `Far.backward`."""
        found = self.gradients[step] = self._through(step, grad)
        return found if self._far is None else self._far.backward(step, found)

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """See `Far.losses`.

        Raises:
            ValueError: always: who is sent the labels need not guess them.
        """
        raise ValueError("labels were sent")

    def _through(self, step: int, values: Tensor) -> Tensor:
        body = self._codec.encode(values, stream(step, "attack"))
        return self._codec.decode(body, tuple(values.shape))


def arriving(states: Tensor, config: SplitConfig, seed: int) -> Tensor:
    """What arrives of a client's hidden states ``[n, d]``."""
    watching = Watching(None, config.codec_up)
    packing = pack([[np.zeros(len(states), np.int32)]], read=None)
    far = guarded(watching, config, SeededNoise(seed, 1, ("attacked",)))
    with torch.no_grad():
        far.forward(1, states[None], packing, train=False)
    return watching.arrived[1][0]
