"""A client's mean gradient of a round, as its update tells it."""

import numpy as np

from fedloom.core.layout import TensorSpec, Vector
from fedloom.core.types import Delta
from fedloom.core.work import LocalWork

__all__ = ["rate_of", "slope_of"]


def slope_of(delta: Delta, work: LocalWork, examples: int) -> Vector:
    """``(theta - theta_k) / (tau eta)``: the mean gradient of a client that steps by plain SGD.

    Karimireddy et al., ICML 2020, eq. 4, option II. With other optimizers it is what such a client
    would have had to see to end there.

    Args:
        delta: local minus global.
        work: the numbers of its training.
        examples: that it has.

    Returns:
        float32, of ``delta.layout``.
    """
    steps = work.step_count(examples)
    rates = [np.full(spec.size, steps * rate_of(spec, work)) for spec in delta.layout]
    slope: Vector = (-delta.vector / np.concatenate([*rates, np.ones(0)])).astype(np.float32)
    return slope


def rate_of(spec: TensorSpec, work: LocalWork) -> float:
    """The learning rate of a tensor."""
    return work.head_lr if work.head_lr and "head" in spec.tags else work.lr
