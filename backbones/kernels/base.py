"""What runs products with stored weights, and what each way of it can be used for."""

from dataclasses import dataclass
from typing import Protocol

import torch

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.product import Quantized
from fedloom.backbones.schemes import Packed

__all__ = ["Capabilities", "Engine"]


@dataclass(frozen=True)
class Capabilities:
    """What the products of an engine are good for; tested for each engine.

    Attributes:
        backward: ``dx`` is the gradient of the matrix that is stored, ``dy W~``.
        jvp_safe: forward-mode derivatives go through the product.
        fd_safe: finite differences with steps of 1e-2 and less tell the slope: inputs are not
            rounded, so that a small step changes the output by as much as it should.
        dynamic_activations: inputs are rounded to 8 bits on the way.
    """

    backward: bool = True
    jvp_safe: bool = True
    fd_safe: bool = True
    dynamic_activations: bool = False

    @property
    def weight_only(self) -> bool:
        """Whether weights alone are rounded: the output is ``x W~^T`` as exactly as floats are."""
        return not self.dynamic_activations


class Engine(Protocol):
    """A way to multiply with a stored matrix.

    Attributes:
        name: as a configuration says it.
        capabilities: what it can be used for.
    """

    name: str
    capabilities: Capabilities

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether it can, on this machine: with weights stored so and inputs of that type."""
        ...

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> Quantized:
        """A matrix that is ready to be multiplied with."""
        ...
