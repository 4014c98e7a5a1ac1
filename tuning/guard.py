"""Less for a far side to learn from: what goes up is clipped token by token, and noise is added.

A guard stands between a client and its far side, at home. What comes down is passed on as it is:
for the gradient, clipping and noise are not there (it is passed straight through), so what it finds
is that of the far blocks at what they were sent. `fedloom.core.privacy` says what noise is worth.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import lengths_of
from fedloom.core.errors import SplitError
from fedloom.core.split import SplitConfig
from fedloom.tuning.far import Far, FarLosses
from fedloom.tuning.noise import Noise
from fedloom.tuning.targets import Places

__all__ = ["Guard", "guarded"]

GRID = 2.0**-20
"""Noisy numbers are rounded to multiples of (a power of two below the deviation) times this."""
WAITING = 64
"""Steps whose gradient may still go up."""


def guarded(far: Far, config: SplitConfig, noise: Noise) -> Far:
    """A far side that gets no more than the job allows; `far` itself where it allows everything.

    Args:
        far: the far side of one client, or of the k clients of a simulated batch.
        config: what is clipped, and how much noise is added.
        noise: where noise comes from: `SecretNoise` on a device, `SeededNoise` in a simulation.
    """
    clips = {"forward": config.clip, "backward": config.clip_grad}
    return Guard(far, clips, config.noise, noise) if any(clips.values()) else far


class Guard:
    """A `Far` around a far side.

    Each token's vector is scaled to an L2 norm of at most the leg's bound C (up to float rounding),
    and gets Gaussian noise of standard deviation ``multiple * C`` in every coordinate: Abadi et
    al., CCS 2016, section 3.1, with a token in the place of an example. Padding stays what it is.
    Noisy numbers are rounded to a grid that does not depend on them: the lowest bits of a float sum
    give away what was added to what (Mironov, CCS 2012).

    Args:
        far: what is guarded.
        clips: the bound on ``forward`` (hidden states) and ``backward`` (gradients); 0: the leg
            goes up as it is.
        multiple: standard deviation, as a multiple of the bound.
        noise: where noise comes from.
    """

    def __init__(self, far: Far, clips: Mapping[str, float], multiple: float, noise: Noise) -> None:
        self._far, self._clips, self._multiple, self._noise = far, clips, multiple, noise
        self._waiting: dict[int, Packing] = {}

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `Far.forward`."""
        if train:
            self._waiting[step] = packing
            for old in list(self._waiting)[:-WAITING]:
                del self._waiting[old]
        sent = self._up("forward", step, hidden, packing)
        return self._far.forward(step, sent, packing, train=train)

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `Far.backward`."""
        if step not in self._waiting:
            raise SplitError(f"step {step}: not held; send it again", code="evicted")
        sent = self._up("backward", step, grad, self._waiting[step])
        found = self._far.backward(step, sent)
        del self._waiting[step]
        return found

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """See `Far.losses`."""
        sent = self._up("forward", step, hidden, packing)
        return self._far.losses(step, sent, packing, places, train=train)

    def _up(self, leg: str, step: int, values: Tensor, packing: Packing) -> Tensor:
        """What is sent of ``[k, L, d]``, or of ``[k, b, d]`` where only some tokens are read."""
        clip = self._clips[leg]
        if not clip:
            return values
        whole, out = values.shape[1] == packing.length, values.detach().clone()
        for row, own in enumerate(lengths_of(packing).tokens):
            count = sum(own) if whole else len(own)
            piece = _clipped(out[row, :count].double(), clip)
            if self._multiple:
                piece = self._noisy(leg, step, row, piece, self._multiple * clip)
            out[row, :count] = piece.to(out.dtype)
        return out

    def _noisy(self, leg: str, step: int, row: int, piece: Tensor, deviation: float) -> Tensor:
        drawn = self._noise(leg, step, row, piece.cpu().numpy())
        grid = GRID * 2.0 ** math.floor(math.log2(deviation))
        noisy = piece + deviation * torch.from_numpy(drawn).to(piece.device)
        return torch.round(noisy / grid) * grid


def _clipped(values: Tensor, clip: float) -> Tensor:
    """Rows ``[n, d]``, float64, of norm `clip` at most; what is not finite stays so."""
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    share: Tensor = (clip / norms).clamp(max=1.0)
    return values * share
