"""Slopes from losses alone, and whether they can be found so."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.errors import ConfigError, require
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.learners.reach import FAR, MOST, TOKENS, at_once, reach
from fedloom.tuning.learners.spot import Spot, Trials, joined, segments
from fedloom.tuning.store import Store

__all__ = ["Differences"]

GPU_TOKENS = 1 << 16
"""Tokens of a pass that are worth filling up with more directions on a GPU, which is not full
with fewer."""
CHECKED = 4
"""Examples that are run twice to see whether losses repeat."""


@dataclass(frozen=True)
class Differences:
    """``(f(w + h z) - f(w)) / h``, or ``(f(w + h z) - f(w - h z)) / (2 h)`` where central.

    Weights are perturbed in a copy: what is added and taken away again in place drifts (4.8e-3 of
    the weights after 100 directions in fp16).

    Attributes:
        central: whether to look both ways.
        h: how far; 0 lets the dimension say. It never changes with what is measured, so that a
            client's result does not depend on who shares its chunk.
        most: directions of a client in one pass at most.
    """

    central: bool
    h: float
    most: int = MOST

    def at_once(self, tokens: int, device: torch.device) -> int:
        """Directions of a client in one pass: several where batches are small."""
        room = GPU_TOKENS if device.type == "cuda" else TOKENS
        return at_once(tokens, self.most, room=room)

    @property
    def passes(self) -> int:
        """Forward passes of a direction; that at w is shared."""
        return 2 if self.central else 1

    def check(self, spot: Spot, rows: Rows) -> None:
        """The same batch must give the same loss twice, and h must move the weights.

        Raises:
            ConfigError: losses are random, or h is too short: most weights are what they were, or
                the losses are.
        """
        self._check_step(spot)
        few = [rows[0][:CHECKED]]
        with torch.no_grad():
            first, second = (spot.session.losses(spot.store, few).loss for _ in range(2))
        # A GPU may add up in another order; dropout changes the third digit at least.
        if not torch.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True):
            one, other = (float(loss[0]) for loss in (first, second))
            raise ConfigError(
                f"finite-difference: the same batch gave the losses {one:.6g} and {other:.6g}: "
                "dropout is active, or something else is random; put the model into evaluation "
                "mode (dropout 0)"
            )
        self._check_losses(spot, few)

    def _check_step(self, spot: Spot) -> None:
        weights, dtype = spot.store.start[spot.columns], spot.store.dtype
        h = self._reach(spot.store, len(spot.columns))
        least = h
        while _lost(weights, least, dtype) > 0.5:
            least *= 2
        kind = str(dtype).removeprefix("torch.")
        text = f"at least {least:g}: a smaller step leaves most weights as they are in {kind}"
        require(least == h, "h", h, text)

    def _check_losses(self, spot: Spot, few: Rows) -> None:
        """A step far below what the dimension says must change the losses by more than noise.

        Where such a step changes nothing, but a longer one does, it is refused. A client whose
        losses no step changes has learned its batch: that says nothing of h.
        """
        size = len(spot.columns)
        usual = replace(self, h=0.0)._reach(spot.store, size)
        least = self.h or usual
        if least * FAR >= usual:
            return
        z = 1.0 - 2.0 * (torch.arange(size, device=spot.columns.device) % 3 == 0).float()
        alone = np.zeros(1, dtype=np.int64)
        trials = Trials(alone, alone, few, z[None], False)
        (here,), _ = _sums(spot, trials, 0.0)
        noise = 16 * torch.finfo(torch.float32).eps * float(here.abs())
        while least < usual and abs(float(_sums(spot, trials, least)[0] - here)) <= noise:
            least *= 4
        text = f"at least {least:g}: a smaller step is lost in the last bits of the losses"
        require(least == self.h or least >= usual, "h", self.h, text)

    def slopes(self, spot: Spot, trials: Trials, here: Losses) -> NDArray[np.float64]:
        """Slopes along directions, float64 ``[r]``; see `Gauge`."""
        h = self._reach(spot.store, trials.z.shape[1])
        found, counts = _sums(spot, trials, h)
        if self.central:
            found, reach = found - _sums(spot, trials, -h)[0], 2 * h
        elif trials.single:
            found, reach = found - segments(here.each, counts), h
        else:
            owner = torch.from_numpy(trials.owner).to(found.device)
            found, reach = found - segments(here.each, here.count)[owner], h
        whole = here.count.double()[torch.from_numpy(trials.owner).to(found.device)]
        return joined([found / (reach * whole.clamp(min=1))])

    def _reach(self, store: Store, size: int) -> float:
        return self.h or reach(size, coarse=store.dtype == torch.bfloat16)


def _sums(spot: Spot, trials: Trials, h: float) -> tuple[Tensor, Tensor]:
    """Sums of the losses at ``w + h z``, float64 ``[r]``, and how many losses each has."""
    sums, counts = [], []
    for part in spot.parts(trials):
        probe, values = spot.probe(part)
        values[:, spot.columns] += h * part.z
        probe.values = values
        with torch.no_grad():
            found = spot.session.losses(probe, part.rows)
        sums.append(segments(found.each, found.count))
        counts.append(found.count)
    return torch.cat(sums), torch.cat(counts)


def _lost(weights: Tensor, h: float, dtype: torch.dtype) -> float:
    """Share of the weights that a step of h does not change in the products' type."""
    return float(((weights + h).to(dtype) == weights.to(dtype)).float().mean())
