"""Scales of stored weights, trained themselves: each client's own beside the frozen codes.

Kim et al., "Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer
Quantization" (PEQA), NeurIPS 2023, eq. 2: ``W = (s + ds) * Q``, of which Q is frozen. What is
computed is the change ``x (ds * Q)^T`` beside the frozen ``x (s * Q)^T``.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedloom.backbones.base import AddToInput, Saved
from fedloom.backbones.kernels.native import unpack, unpacks
from fedloom.backbones.schemes import Packed
from fedloom.tuning.store import Store

__all__ = ["GroupScales", "RowScales"]

_CHUNK = 8 << 20
"""Bytes of unpacked codes at a time."""


class RowScales:
    """One scale for each row: ``y + (y - b) ds / s``, since ``y - b = s (x Q^T)``.

    Args:
        store: holds ds ``[k, d_out]``.
        name: of it.
        packed: the weight.
        bias: b ``[d_out]``, or None.
    """

    def __init__(self, store: Store, *, name: str, packed: Packed, bias: Tensor | None) -> None:
        self._store, self._name = store, name
        scale = packed.scale.to(torch.float32)
        # A row of zeros has no scale, and stays one whatever it is scaled by.
        self._inverse = torch.where(scale == 0, 0.0, 1 / scale)
        self._bias = bias

    def _ratio(self, dtype: torch.dtype) -> Tensor:
        """``ds / s``, ``[k, 1, d_out]``."""
        change = self._store.view(self._name, dtype=torch.float32) * self._inverse
        return change.unsqueeze(1).to(dtype)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Scale what the weight alone gives."""
        own = y.clone() if self._bias is None else y - self._bias.to(y.dtype)
        return y + own * self._ratio(y.dtype), (own,)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, None]:
        """``d(ds) = sum_L dy (y - b) / s``; the frozen output sees ``dy (1 + ds / s)``."""
        grad = self._store.grad_view(self._name)
        if grad is not None:
            grad.add_((dy * saved[0]).sum(1, dtype=torch.float32) * self._inverse)
        return dy * (1 + self._ratio(dy.dtype)), None


class GroupScales:
    """A scale for each group of a row: ``y + x (ds * Q)^T``.

    Codes are unpacked some rows at a time, once for all clients; no client's change of the whole
    weight, and no gradient of it, is ever in memory.

    Args:
        store: holds ds ``[k, d_out, d_in / group]``.
        name: of it.
        packed: the weight.
    """

    def __init__(self, store: Store, *, name: str, packed: Packed) -> None:
        self._store, self._name, self._packed = store, name, packed

    def _codes(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows, and the float32 numbers that scales multiply, ``[rows, groups, group]``."""
        count, columns = self._packed.shape
        step = max(_CHUNK // (4 * columns), 1)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            part = self._packed[rows]
            # Least values stay as they are, and are no part of what is scaled.
            least = None if part.least is None else torch.zeros_like(part.least)
            plain = replace(part, scale=torch.ones_like(part.scale), least=least)
            if unpacks(part.scheme, part.codes.device, torch.float32):
                values = torch.empty(part.shape)
                unpack(plain, values)
            else:
                values = plain.whole()
            yield rows, values.view(len(values), -1, part.scheme.group)

    def _changes(self, dtype: torch.dtype) -> Iterator[tuple[int, slice, Tensor]]:
        """A client, some rows, and the change of these rows, ``[rows, d_in]``."""
        scales = self._store.view(self._name, dtype=torch.float32)
        for rows, values in self._codes():
            for client, own in enumerate(scales):
                yield client, rows, (values * own[rows, :, None]).flatten(1).to(dtype)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the product with the change to `y` in place."""
        for client, rows, change in self._changes(x.dtype):
            y[client, :, rows].addmm_(x[client], change.t())
        return y, (x,)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """``d(ds)`` of a group is the sum over it of ``(dy^T x) * Q``; ``dx += dy (ds * Q)``."""
        grad = self._store.grad_view(self._name)
        if grad is not None:
            (x,) = saved
            for rows, values in self._codes():
                for own, back, inputs in zip(grad, dy, x, strict=True):
                    dense = (back[:, rows].t() @ inputs).float()
                    own[rows] += (dense.view(values.shape) * values).sum(-1)

        def add(dx: Tensor) -> Tensor:
            for client, rows, change in self._changes(dy.dtype):
                dx[client].addmm_(dy[client, :, rows], change)
            return dx

        return dy, add
