"""The MLP half of a transformer block, forward and backward."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.base import Sites
from fedloom.backbones.fusion import fused_on_gpu
from fedloom.backbones.product import Product, ProductTape
from fedloom.backbones.shape import Activation

__all__ = ["Mlp", "MlpTape"]


@dataclass(frozen=True)
class MlpTape:
    """What the backward pass of an MLP needs: the input of the activation, and two tapes."""

    inner: Tensor
    up: ProductTape
    down: ProductTape


@dataclass(frozen=True)
class Mlp:
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))`` where `up` has two members.

    Attributes:
        up: the product to the inner width; gate and up side by side where gated.
        down: the product back.
        activation: between them.
    """

    up: Product
    down: Product
    activation: Activation

    @property
    def gated(self) -> bool:
        """Whether there is a gate (https://arxiv.org/abs/2002.05202)."""
        return len(self.up.members) == 2

    def attached(self, sites: Sites) -> bool:
        """Whether a site is attached anywhere inside."""
        return bool(self.up.attached(sites) or self.down.attached(sites))

    def forward(self, x: Tensor, clients: int, sites: Sites) -> tuple[Tensor, MlpTape]:
        """Map ``[n, d]`` to ``[n, d]``; return it and the tape."""
        inner, up = self.up.forward(x, clients, sites)
        active = (_gated if self.gated else _activate)(inner, self.activation)
        y, down = self.down.forward(active, clients, sites)
        return y, MlpTape(inner, up, down)

    def backward(self, tape: MlpTape, dy: Tensor, *, need_dx: bool) -> Tensor | None:
        """The gradient to the input ``[n, d]``, or None where it is not wanted; `dy` is kept."""
        deeper = need_dx or bool(tape.up.sites)
        own = dy.clone() if tape.down.sites else dy
        d_active = self.down.backward(tape.down, own, need_dx=deeper)
        if d_active is None:
            return None
        if self.gated:
            d_inner = _gated_gradient(tape.inner, d_active, self.activation)
        else:
            d_inner = _activation_gradient(d_active, tape.inner, self.activation)
        return self.up.backward(tape.up, d_inner, need_dx=need_dx)


@fused_on_gpu
def _gated(inner: Tensor, activation: Activation) -> Tensor:
    gate, value = inner.chunk(2, 1)
    return _activate(gate, activation).mul_(value)


@fused_on_gpu
def _gated_gradient(inner: Tensor, d_active: Tensor, activation: Activation) -> Tensor:
    d_inner = torch.empty_like(inner)
    gate, value = inner.chunk(2, 1)
    d_gate, d_value = d_inner.chunk(2, 1)
    d_value.copy_(d_active * _activate(gate, activation))
    d_gate.copy_(_activation_gradient(d_active.mul_(value), gate, activation))
    return d_inner


def _activate(x: Tensor, activation: Activation) -> Tensor:
    if activation == "gelu":
        return functional.gelu(x)
    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return functional.silu(x) if activation == "silu" else functional.relu(x)


def _activation_gradient(dy: Tensor, x: Tensor, activation: Activation) -> Tensor:
    """The gradient to `x`, in the place of `dy`."""
    aten = torch.ops.aten
    if activation == "gelu":
        dx: Tensor = aten.gelu_backward.grad_input(dy, x, grad_input=dy)
    elif activation == "gelu_tanh":
        dx = aten.gelu_backward.grad_input(dy, x, approximate="tanh", grad_input=dy)
    elif activation == "silu":
        dx = aten.silu_backward.grad_input(dy, x, grad_input=dy)
    else:
        dx = dy.mul_(x > 0)
    return dx
