"""What a far side checks of a leg before it computes with it."""

import numpy as np
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import lengths_of
from fedloom.core.errors import SplitError
from fedloom.tuning.finite import is_finite
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.targets import Places

__all__ = ["check_grad", "check_hidden", "check_places"]


def check_hidden(
    where: str, hidden: Tensor, packing: Packing, side: FusedModel, max_length: int
) -> None:
    """Refuse hidden states that the far blocks cannot run.

    Raises:
        SplitError: of another shape or type, not finite, or an example is longer than agreed.
    """
    expected = (packing.clients, packing.length, side.backbone.shape.width)
    _check(f"{where}: hidden states", hidden, expected)
    if max_length:
        longest = max(n for own in lengths_of(packing).tokens for n in own)
        if longest > max_length:
            text = f"an example of {longest} tokens; agreed were {max_length} at most"
            raise SplitError(f"{where}: {text}", code="length")


def check_grad(step: int, grad: Tensor, hidden: Tensor, packing: Packing, *, trimmed: bool) -> None:
    """Refuse a gradient that does not fit what the step's hidden states became.

    Raises:
        SplitError: of another shape or type, or not finite.
    """
    width = hidden.shape[-1]
    read = (packing.clients, packing.examples, width)
    _check(f"step {step}: gradient", grad, read if trimmed else tuple(hidden.shape))


def check_places(places: Places, packing: Packing, side: FusedModel) -> None:
    """Refuse labels that the head cannot compare with.

    Raises:
        SplitError: the arrays differ in length, or a place, label or owner is out of range.
    """
    language = side.task.kind == "causal-lm"
    most = packing.clients * (packing.length if language else packing.examples)
    head = side.backbone.head
    classes = side.task.classes if not language or head is None else head.weight.shape[0]
    limits = {"index": most, "target": classes, "owner": packing.clients}
    sizes = {name: len(getattr(places, name)) for name in limits}
    if len(set(sizes.values())) > 1 or not sizes["index"]:
        raise SplitError(f"labels: {sizes}; expected equally many of each", code="labels")
    for name, limit in limits.items():
        values = np.asarray(getattr(places, name))
        if values.min() < 0 or values.max() >= limit:
            text = f"{name} from {values.min()} to {values.max()}; expected 0 to {limit - 1}"
            raise SplitError(f"labels: {text}", code="labels")


def _check(what: str, found: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(found.shape) != shape:
        text = f"{list(found.shape)}; expected {list(shape)}"
        raise SplitError(f"{what}: {text}", code="shape")
    if not found.is_floating_point():
        raise SplitError(f"{what}: {found.dtype}; expected floats", code="dtype")
    if not is_finite(found):
        raise SplitError(f"{what}: a value is not finite", code="not-finite")
