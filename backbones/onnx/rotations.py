"""Angles of rotary positions as graphs take them; see `fedloom.backbones.rotary`."""

import numpy as np

from fedloom.backbones.onnx.matrices import Floats

__all__ = ["rotations"]


def rotations(length: int, theta: float, head_dim: int) -> tuple[Floats, Floats]:
    """Cosines and sines ``[length, head_dim]``, for each coordinate of a head.

    Position p turns pair i by ``p theta^(-2i / head_dim)``; of the pair's first coordinate the sine
    is negative. Rounded to float32 where `fedloom.backbones.rotary.rotation` rounds.
    """
    step = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    slow = np.float32(1) / np.power(theta, step.astype(np.float64)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * slow
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate((cos, cos), axis=1), np.concatenate((-sin, sin), axis=1)
