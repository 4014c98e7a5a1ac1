"""Memory for one unpacked weight at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Buffer"]


@dataclass
class Buffer:
    """Memory for one weight, or some rows of it, which all that share it use in turn.

    For one thread.
    """

    _flat: Tensor = field(default_factory=lambda: torch.empty(0))

    def of(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of that shape with any numbers in it, good until the next call."""
        count = 1
        for n in shape:
            count *= n
        flat = self._flat
        if flat.numel() < count or (flat.dtype, flat.device) != (dtype, device):
            self._flat = torch.empty(count, dtype=dtype, device=device)
        return self._flat[:count].view(*shape)
