"""Keys and values that stand before an example's own: what prefix tuning puts into a block.

Prefix tuning (Li and Liang, ACL 2021, section 4.1) lets every query of a block see n further keys
and values, which are parameters. What is attached at the site of that name makes them: it is given
no tokens, ``[k, 0, 2 w]``, and returns ``[k, n, 2 w]``, keys and values of width w side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.base import Attachment, Saved, Sites
from fedloom.backbones.frame import Frame, Slots
from fedloom.backbones.rotary import Rotation, rotate, rotation

__all__ = ["Ahead", "ahead_of", "owners"]


@dataclass(frozen=True)
class Ahead:
    """The prefixes of all clients in one block.

    Attributes:
        attachment: whose they are.
        saved: what its backward pass needs.
        keys: ``[k, heads, n, head_dim]``, turned to where they stand.
        values: likewise, not turned.
        turn: how keys were turned, backwards; None without rotary positions.
    """

    attachment: Attachment
    saved: Saved
    keys: Tensor
    values: Tensor
    turn: Rotation | None

    @property
    def length(self) -> int:
        """n, tokens of a prefix."""
        return self.keys.shape[2]

    def before(self, keys: Tensor, values: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[R, heads, n + T, head_dim]`` of examples ``[R, heads, T, head_dim]``.

        Args:
            keys: the examples' own.
            values: the examples' own.
            owner: int64 ``[R]``, the client of each.
        """
        return torch.cat((self.keys[owner], keys), 2), torch.cat((self.values[owner], values), 2)

    def blank(self) -> tuple[Tensor, Tensor]:
        """Where gradients to keys and values are added up."""
        return torch.zeros_like(self.keys), torch.zeros_like(self.values)

    def backward(self, d_keys: Tensor, d_values: Tensor) -> None:
        """Hand the gradients on to whose prefixes they are."""
        if self.turn is not None:
            d_keys = rotate(d_keys, self.turn)
        sides = [d.transpose(1, 2).flatten(2) for d in (d_keys, d_values)]
        self.attachment.backward(self.saved, torch.cat(sides, 2))


def ahead_of(
    sites: Sites, name: str, like: Tensor, frame: Frame, *, width: int, head_dim: int
) -> Ahead | None:
    """The prefixes that are attached to a block; None where there are none.

    With rotary positions an example's own tokens stand after the prefix, as in PEFT: a query at
    position p is turned by n + p, a key of the prefix not at all. Only differences count, so the
    prefix is turned back by n instead.

    Args:
        sites: what is attached where.
        name: of the site.
        like: a tensor of the type and device that is wanted.
        frame: the packing.
        width: of all keys.
        head_dim: of one head.
    """
    attachment = sites[name].after if name in sites else None
    if attachment is None:
        return None
    none = like.new_empty(frame.clients, 0, 2 * width)
    made, saved = attachment.forward(none, none)
    sides = made.view(frame.clients, -1, 2, width // head_dim, head_dim).permute(2, 0, 3, 1, 4)
    keys, values = sides[0].contiguous(), sides[1].contiguous()
    turn = None
    if frame.rope_theta is not None:
        after = torch.tensor([made.shape[1]], device=like.device)
        turn = rotation(after, frame.rope_theta, head_dim, like.dtype)
        keys = rotate(keys, turn, back=True)
    return Ahead(attachment, saved, keys, values, turn)


def owners(frame: Frame, slots: Slots, device: torch.device) -> Tensor:
    """The client of each example of a grid, int64 ``[R]``."""
    rows = torch.arange(slots.count, device=device) if slots.rows is None else slots.rows
    return rows // frame.examples
