"""What a frozen backbone offers the trainable side, and what it asks of it.

A cohort of k clients runs through one backbone at once. Hidden states are *packed*: ``[k, L, d]``,
client by client, each client's examples laid end to end and padded to the longest client's L. The
frozen products see the ``k * L`` tokens as one matrix; what belongs to one client is a slice of the
first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["AddToInput", "Attachment", "Grid", "Linear", "Packing", "Saved", "Site", "Sites"]

Saved: TypeAlias = tuple["Tensor", ...]
AddToInput: TypeAlias = Callable[["Tensor"], "Tensor"]


class Attachment(Protocol):
    """A per-client change to one tensor of the backbone, with its gradient written by hand.

    Gradients of the attachment's own parameters are written where the trainer reads them, inside
    `backward`; no autograd graph is needed.
    """

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Change the output of a site.

        Args:
            x: input of the frozen operation, ``[k, L, d_in]``.
            y: its output, ``[k, L, d_out]``; may be written to.

        Returns:
            The changed output ``[k, L, d_out]``, and what `backward` needs. The memory of `y` is
            used again: what is kept of it must be a copy.
        """
        ...

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        """Add the gradients of own parameters; pass the gradient on.

        Args:
            saved: what `forward` returned.
            dy: gradient to the changed output, ``[k, L, d_out]``; may be written to.

        Returns:
            The gradient to the frozen output ``[k, L, d_out]``, and, where the attachment also
            reads the input, a function that adds its share to the gradient of the input in place
            (``[k, L, d_in]``) and returns it.
        """
        ...


@dataclass(frozen=True)
class Site:
    """What is attached at one module of the backbone.

    Attributes:
        before: changes the module's input (its ``y`` is the input, its ``x`` is not read).
        after: changes the module's output.
    """

    before: Attachment | None = None
    after: Attachment | None = None


Sites: TypeAlias = Mapping[str, Site]


@dataclass(frozen=True)
class Linear:
    """A linear map of a backbone that adapters may be attached to.

    Attributes:
        name: module path in transformers' naming, as PEFT saves it.
        block: the block that it belongs to.
        d_in: width of its input.
        d_out: width of its output.
    """

    name: str
    block: str
    d_in: int
    d_out: int


@dataclass(frozen=True)
class Grid:
    """A bucket of examples of similar length, padded to T for attention.

    Attributes:
        index: int64 ``[R, T]``: where each token lies among the ``k * L`` packed tokens; padding
            points at the example's first token. Slot t of a row holds the token at position t of
            its example.
        mask: bool ``[R, T]``, true where there is a token; None where every slot is filled.
        rows: int64 ``[R]``: which of the ``k * b`` examples each row is.
    """

    index: Tensor
    mask: Tensor | None
    rows: Tensor


@dataclass(frozen=True)
class Packing:
    """Where each example's tokens lie in packed hidden states ``[k, L, d]``.

    Attributes:
        clients: k.
        length: L, tokens of the longest client.
        examples: b, examples of the client that has most.
        ids: int64 ``[k, L]`` token ids (0 at padding); None for images.
        positions: int64 ``[k, L]``, position of each token in its own example (0 at padding).
        grids: buckets of examples; together they hold every example once.
        back: int64 ``[k * L]``: where each packed token lies among the slots of all grids laid end
            to end (padding points one past the last slot).
        read: int64 ``[k, b]``: index among the ``k * L`` packed tokens of the token that each
            example is read at (first or last), clients with fewer examples padded with their own
            first token; None where all tokens are read.
        regular: every client holds the same number of examples of one length, with no padding and
            one grid in packed order: gathering is a reshape.
        useful: fraction of the ``k * L`` tokens that are not padding.
    """

    clients: int
    length: int
    examples: int
    ids: Tensor | None
    positions: Tensor
    grids: tuple[Grid, ...]
    back: Tensor
    read: Tensor | None
    regular: bool
    useful: float

    def to(self, device: torch.device) -> Packing:
        """The same packing on another device."""
        return Packing(
            self.clients,
            self.length,
            self.examples,
            _moved(self.ids, device),
            self.positions.to(device),
            tuple(_moved_grid(grid, device) for grid in self.grids),
            self.back.to(device),
            _moved(self.read, device),
            self.regular,
            self.useful,
        )


def _moved_grid(grid: Grid, device: torch.device) -> Grid:
    return Grid(grid.index.to(device), _moved(grid.mask, device), grid.rows.to(device))


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
