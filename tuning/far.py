"""The seam of a split model: what lies far away, as autograd functions over whoever computes it.

A client keeps the first blocks (and, with labels at home, the last ones and the head); what lies
between runs elsewhere. Hidden states are packed, ``[k, L, d]``, as everywhere; one device is the
case k = 1. Code around the seam stays plain PyTorch, and any learner works over it.

Legs of a step: hidden states up, hidden states down, gradient up, gradient down where labels stay
at home (U-shape: FedBERT, Tian et al., ACM TIST 2022); hidden states and labels up, gradient and
losses down where they do not (SplitLoRA, Lin et al., arXiv 2407.00952).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from fedloom.backbones.base import Packing
from fedloom.core.errors import SplitError
from fedloom.tuning.targets import Places

__all__ = ["Far", "FarLosses", "remote_loss", "remote_span"]

RESENDS = 3
"""How often the input of one step is sent again before its gradient is given up."""


@dataclass(frozen=True)
class FarLosses:
    """What the far side says of a batch that it holds the labels of.

    Attributes:
        loss: float32 ``[k]``, mean over the client's predictions in the batch.
        correct: float32 ``[k]``, right predictions.
        count: float32 ``[k]``, predictions.
        each: float32 ``[n]``, the loss of every prediction, in the order of the places.
        predicted: int64 ``[n]``, the class of every prediction.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor
    each: Tensor
    predicted: Tensor


class Far(Protocol):
    """Whoever computes the far blocks of one client (or of a cohort, in a simulation).

    Steps are numbered by the caller, upwards. All methods raise `SplitError`: the leg was refused
    (its code says why), and with code ``evicted`` a gradient is asked for a step that the far side
    no longer holds. What is sent that is not finite is refused; what comes back may be, and shows
    in the client's loss and delta.
    """

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """Run the far blocks.

        Args:
            step: number of the step.
            hidden: ``[k, L, d]``, detached; what goes into the first far block.
            packing: where each example's tokens lie; its ids are not looked at.
            train: a gradient will be asked for; else nothing is kept. A step may be sent again.

        Returns:
            What comes out of the last far block: ``[k, L, d]``, or ``[k, b, d]`` (the tokens in
            ``packing.read``) where that is the model's last block and only they are read.
        """
        ...

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """Pass a gradient back through the far blocks, which then step, or will.

        Args:
            step: number of a step whose forward ran with `train`.
            grad: the gradient to what `forward` returned, of the same shape.

        Returns:
            The gradient to the hidden states that went in, ``[k, L, d]``.
        """
        ...

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """Run the far blocks, the head and the loss, with the labels there.

        Args:
            step: number of the step.
            hidden: ``[k, L, d]``, detached.
            packing: where each example's tokens lie; its ids are not looked at.
            places: what is predicted: `index` counts the tokens ``k * L`` of a language model, or
                the slots ``k * b`` of a classifier.
            train: the far side steps.

        Returns:
            The losses, and the gradient of their sum to `hidden`, ``[k, L, d]`` (without `train`
            it means nothing).
        """
        ...


def remote_span(far: Far, step: int, hidden: Tensor, packing: Packing) -> Tensor:
    """Run the far blocks as one autograd operation; see `Far.forward`.

    Where gradients are off only the two forward legs travel. Where they are on, the far side is
    always asked for a gradient, even if nothing below it trains: it may train itself. Where it has
    evicted the step, its input is sent again.

    Raises:
        SplitError: the far side refused, or what it sent has another shape.
    """
    if not torch.is_grad_enabled():
        sent = hidden.detach()
        return _checked("forward", far.forward(step, sent, packing, train=False), hidden, packing)
    anchor = torch.empty((), device=hidden.device, requires_grad=True)
    out: Tensor = _Span.apply(hidden, anchor, far, step, packing)  # type: ignore[no-untyped-call]
    return out


def remote_loss(
    far: Far, step: int, hidden: Tensor, packing: Packing, places: Places
) -> tuple[Tensor, FarLosses]:
    """Run the far blocks, the head and the loss as one autograd operation; see `Far.losses`.

    Returns:
        The loss of each client, float32 ``[k]``, differentiable, and all that the far side said.
        The far side steps along the plain sum of the losses, so that is what may be
        differentiated: another weight is refused.

    Raises:
        SplitError: the far side refused, or what it sent has another shape.
    """
    train = torch.is_grad_enabled()
    found, grad = far.losses(step, hidden.detach(), packing, places, train=train)
    if found.loss.shape != (packing.clients,):
        shape = list(found.loss.shape)
        raise SplitError(f"losses: {shape}; expected [{packing.clients}]", code="shape")
    if not train:
        return found.loss, found
    _check("gradient", grad, tuple(hidden.shape))
    anchor = torch.empty((), device=hidden.device, requires_grad=True)
    loss: Tensor = _Loss.apply(hidden, anchor, found.loss, grad)  # type: ignore[no-untyped-call]
    return loss, found


class _Span(Function):
    """Far blocks between hidden states; the anchor makes autograd call `backward` in any case."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, anchor: Tensor, far: Far, step: int, packing: Packing
    ) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.rest = far, step, packing
        sent = hidden.detach()
        return _checked("forward", far.forward(step, sent, packing, train=True), hidden, packing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (hidden,) = ctx.saved_tensors
        far, step, packing = ctx.rest
        dx = _gradient(far, step, dy.contiguous(), hidden.detach(), packing)
        _check("gradient", dx, tuple(hidden.shape))
        return (dx.to(hidden.dtype) if ctx.needs_input_grad[0] else None), None, None, None, None


class _Loss(Function):
    """Losses that were found far away, with the gradient that came with them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, anchor: Tensor, loss: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        ctx.dtype = hidden.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not bool((weights == 1).all()):
            text = "the losses were weighted, but the far side has stepped along their plain sum"
            raise SplitError(f"losses: {text}; differentiate loss.sum()", code="weights")
        (grad,) = ctx.saved_tensors
        return (grad.to(ctx.dtype) if ctx.needs_input_grad[0] else None), None, None, None


def _gradient(far: Far, step: int, dy: Tensor, hidden: Tensor, packing: Packing) -> Tensor:
    """The gradient at the cut; the step's input is sent again where the far side let it go."""
    for _ in range(RESENDS):
        try:
            return far.backward(step, dy)
        except SplitError as error:
            if error.code != "evicted":
                raise
        far.forward(step, hidden, packing, train=True)
    return far.backward(step, dy)


def _checked(what: str, out: Tensor, hidden: Tensor, packing: Packing) -> Tensor:
    """Hidden states as the near side goes on with them: of every token, or of those read."""
    width = hidden.shape[-1]
    read = (packing.clients, packing.examples, width)
    trimmed = packing.read is not None and tuple(out.shape) == read
    _check(what, out, read if trimmed else tuple(hidden.shape))
    return out.to(hidden.dtype)


def _check(what: str, found: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(found.shape) != shape:
        text = f"{list(found.shape)}; expected {list(shape)}"
        raise SplitError(f"{what} from the far side: {text}", code="shape")
