"""Rotary position embedding (Su et al., RoFormer, https://arxiv.org/abs/2104.09864).

Coordinate i of a head is paired with coordinate ``i + head_dim / 2``, as transformers does it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.fusion import fused_on_gpu

__all__ = ["Rotation", "rotate", "rotation"]


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles, ``[..., head_dim / 2]``."""

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, theta: float, head_dim: int, dtype: torch.dtype) -> Rotation:
    """The rotation of ``positions [...]``: pair i turns by ``position theta^(-2i / head_dim)``."""
    step = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[..., None].float() * (1.0 / theta**step)
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(heads: Tensor, turn: Rotation, *, back: bool = False) -> Tensor:
    """Turn ``[R, heads, T, head_dim]``; `back` turns the other way, which is the gradient."""
    return _turned(heads, turn.cos, turn.sin, -1.0 if back else 1.0)


@fused_on_gpu
def _turned(heads: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    turned = torch.empty_like(heads)
    low, high = heads.chunk(2, -1)
    out_low, out_high = turned.chunk(2, -1)
    out_low.copy_(low * cos).addcmul_(high, sin, value=-sign)
    out_high.copy_(high * cos).addcmul_(low, sin, value=sign)
    return turned
