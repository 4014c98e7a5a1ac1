"""Whether a tensor holds nothing but numbers, at the price of reading it once."""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_finite"]


def is_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    Both survive a sum, which takes no memory and a fiftieth of the time that asking each element
    does on a CPU. A sum that is not finite of elements that are has overflowed: then each is asked.
    """
    found = values.detach()
    if found.device.type == "cpu" and found.dtype != torch.bfloat16:
        # In the thread that asks: torch's own would wake all others for so little.
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(found.numpy().sum())
    else:
        total = float(found.sum())
    return math.isfinite(total) or bool(torch.isfinite(found).all())
