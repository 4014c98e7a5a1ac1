"""The batched form of each adapter: what it does to a tensor of k clients, and its gradient.

Each class is an `Attachment` (`fedloom.backbones.base`). Shapes: input ``x [k, L, d_in]``, output
``y [k, L, d_out]``; parameters come from the store with a leading client axis. The gradient is
written into the store by hand: the sum of the clients' losses gives each row its own gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloom.backbones.base import AddToInput, Attachment, Saved
from fedloom.tuning.store import Store

__all__ = [
    "BiasChange",
    "BottleneckBranch",
    "Chain",
    "LowRank",
    "Prefix",
    "Replacement",
    "Scaling",
]


def _add(grad: Tensor | None, value: Tensor) -> None:
    if grad is not None:
        grad.add_(value)


class LowRank:
    """LoRA: ``y + s (x A^T) B^T`` (Hu et al., ICLR 2022, eq. 3).

    Args:
        store: holds A ``[k, r, d_in]`` and B ``[k, d_out, r]``.
        a: name of A.
        b: name of B.
        scaling: s, alpha / r.
    """

    def __init__(self, store: Store, *, a: str, b: str, scaling: float) -> None:
        self._store, self._a, self._b, self._scaling = store, a, b, scaling

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the low-rank product to `y` in place."""
        low = torch.bmm(x, self._store.view(self._a).transpose(1, 2))
        b = self._store.view(self._b)
        return y.baddbmm_(low, b.transpose(1, 2), alpha=self._scaling), (x, low)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """Gradients ``dB = s dy^T (x A^T)``, ``dA = s (dy B)^T x``; ``dx += s (dy B) A``."""
        x, low = saved
        grad_a, grad_b = self._store.grad_view(self._a), self._store.grad_view(self._b)
        if grad_b is not None:
            # dy is a strided slice of the block's gradient: as the second factor it is read well.
            grad_b.add_(torch.bmm(low.mT, dy).mT, alpha=self._scaling)
        dlow = torch.bmm(dy, self._store.view(self._b)).mul_(self._scaling)
        if grad_a is not None:
            grad_a.add_(torch.bmm(dlow.transpose(1, 2), x))
        a = self._store.view(self._a)
        return dy, lambda dx: dx.baddbmm_(dlow, a)


class Scaling:
    """IA3: ``y * l``, one factor per feature (Liu et al., NeurIPS 2022, section 3.3)."""

    def __init__(self, store: Store, *, factor: str) -> None:
        self._store, self._factor = store, factor

    def _vector(self) -> Tensor:
        return self._store.view(self._factor).flatten(1).unsqueeze(1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Scale the features of `y`."""
        return y * self._vector(), (y.clone(),)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, None]:
        """``dl = sum_L dy * y``; the frozen output sees ``dy * l``."""
        grad = self._store.grad_view(self._factor)
        if grad is not None:
            grad.add_((dy * saved[0]).sum(1).view_as(grad))
        return dy * self._vector(), None


class BiasChange:
    """BitFit: the module's bias becomes trainable (Ben Zaken et al., ACL 2022).

    The parameter is the bias itself, so the change to the frozen output is ``bias - frozen``.
    """

    def __init__(self, store: Store, *, bias: str, frozen: Tensor) -> None:
        self._store, self._bias, self._frozen = store, bias, frozen

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the change of the bias."""
        change = self._store.view(self._bias, dtype=torch.float32) - self._frozen
        return y.add_(change.to(y.dtype).unsqueeze(1)), ()

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, None]:
        """``db = sum_L dy``."""
        grad = self._store.grad_view(self._bias)
        if grad is not None:
            grad.add_(dy.sum(1, dtype=torch.float32))
        return dy, None


class BottleneckBranch:
    """Bottleneck adapter: ``y + up(relu(down(y)))`` (Houlsby et al., ICML 2019, section 2.1).

    Several of width r beside each other are one as wide as all of them.

    Args:
        store: holds ``NAME.down.weight [k, r, d]``, ``NAME.down.bias [k, r]``,
            ``NAME.up.weight [k, d, r]`` and ``NAME.up.bias [k, d]`` for each name.
        names: prefixes of the four names.
    """

    def __init__(self, store: Store, *, names: Sequence[str]) -> None:
        self._store, self._names = store, tuple(names)

    def _all(self, part: str, axis: int) -> Tensor:
        """One tensor of every bottleneck, along the axis of their units."""
        views = [self._store.view(f"{name}.{part}") for name in self._names]
        return views[0] if len(views) == 1 else torch.cat(views, axis)

    def _bias(self) -> Tensor:
        first, *others = (self._store.view(f"{name}.up.bias") for name in self._names)
        return sum(others, first).unsqueeze(1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the branch to `y`."""
        bias = self._all("down.bias", 1).unsqueeze(1)
        inner = torch.baddbmm(bias, y, self._all("down.weight", 1).transpose(1, 2)).relu_()
        out = torch.baddbmm(y, inner, self._all("up.weight", 2).transpose(1, 2))
        return out.add_(self._bias()), (y.clone(), inner)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, None]:
        """Gradients of the four tensors of each; the frozen output sees all paths."""
        y, inner = saved
        dinner = torch.bmm(dy, self._all("up.weight", 2)).mul_(inner > 0)
        found = {
            "down.weight": torch.bmm(dinner.transpose(1, 2), y).chunk(len(self._names), 1),
            "down.bias": dinner.sum(1).chunk(len(self._names), 1),
            "up.weight": torch.bmm(dy.transpose(1, 2), inner).chunk(len(self._names), 2),
            "up.bias": [dy.sum(1)] * len(self._names),
        }
        for part, grads in found.items():
            for name, grad in zip(self._names, grads, strict=True):
                _add(self._store.grad_view(f"{name}.{part}"), grad)
        return torch.baddbmm(dy, dinner, self._all("down.weight", 1)), None


class Replacement:
    """A linear layer trained in full: ``x W^T + b`` with each client's own W and b.

    Args:
        store: holds W ``[k, d_out, d_in]`` and, where there is one, b ``[k, d_out]``.
        weight: name of W.
        bias: name of b, or None.
    """

    def __init__(self, store: Store, *, weight: str, bias: str | None) -> None:
        self._store, self._weight, self._bias = store, weight, bias

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """The product with the clients' own weights, in float32; `y` is not used."""
        wide = x.float()
        out = torch.bmm(wide, self._store.view(self._weight, dtype=torch.float32).transpose(1, 2))
        if self._bias is not None:
            out.add_(self._store.view(self._bias, dtype=torch.float32).unsqueeze(1))
        return out.to(y.dtype), (wide,)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """Gradients of W and b; the frozen output has none."""
        wide, dout = saved[0], dy.float()
        _add(self._store.grad_view(self._weight), torch.bmm(dout.transpose(1, 2), wide))
        if self._bias is not None:
            _add(self._store.grad_view(self._bias), dout.sum(1))
        weight = self._store.view(self._weight, dtype=torch.float32)
        return torch.zeros_like(dy), lambda dx: dx.add_(torch.bmm(dout, weight))


class Prefix:
    """Keys and values before an example's own (Li and Liang, ACL 2021, section 4.1).

    Args:
        store: holds the two, ``[k, n, w]`` each.
        keys: name of the keys.
        values: name of the values.
    """

    def __init__(self, store: Store, *, keys: str, values: str) -> None:
        self._store, self._keys, self._values = store, keys, values

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Keys and values side by side, ``[k, n, 2 w]``; neither `x` nor `y` is read."""
        return torch.cat((self._store.view(self._keys), self._store.view(self._values)), 2), ()

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, None]:
        """Their own gradients; there is nothing below them."""
        width = dy.shape[2] // 2
        _add(self._store.grad_view(self._keys), dy[..., :width])
        _add(self._store.grad_view(self._values), dy[..., width:])
        return dy[:, :0], None


class Chain:
    """Several attachments at one site, applied in order to the same input."""

    def __init__(self, parts: Sequence[Attachment]) -> None:
        self._parts = tuple(parts)
        self._counts: list[int] = []

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Apply each part to the output of the one before."""
        saved: list[Tensor] = []
        self._counts = []
        for part in self._parts:
            y, kept = part.forward(x, y)
            saved.extend(kept)
            self._counts.append(len(kept))
        return y, tuple(saved)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        """Go back through the parts in reverse."""
        adds: list[AddToInput] = []
        end = len(saved)
        for part, count in zip(reversed(self._parts), reversed(self._counts), strict=True):
            dy, add = part.backward(saved[end - count : end], dy)
            end -= count
            if add is not None:
                adds.append(add)
        if not adds:
            return dy, None

        def add_all(dx: Tensor) -> Tensor:
            for add in adds:
                dx = add(dx)
            return dx

        return dy, add_all
