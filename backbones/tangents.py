"""Forward-mode derivatives of what is not written in operations that torch can differentiate."""

from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["dual"]


def dual(x: Tensor) -> bool:
    """Whether a tensor carries a derivative beside its numbers."""
    return forward_ad.unpack_dual(x).tangent is not None
