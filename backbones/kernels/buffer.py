"""Memory for one unpacked weight at a time."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Buffer"]


class Buffer:
    """Memory for one weight, or some rows of it, which all that share it use in turn.

    Each thread has its own.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def of(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of that shape with any numbers in it, good until this thread's next call."""
        count = 1
        for n in shape:
            count *= n
        flat: Tensor | None = getattr(self._own, "flat", None)
        size = count * dtype.itemsize
        if flat is None or len(flat) < size or flat.device != device:
            flat = self._own.flat = torch.empty(size, dtype=torch.uint8, device=device)
        return flat[:size].view(dtype).view(*shape)
