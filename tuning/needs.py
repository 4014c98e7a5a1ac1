"""How much memory a client's training takes, from the shapes: weights, activations, optimizer.

With W bytes of frozen weights, T tokens in the largest batch, A bytes that a token takes in the
blocks and P numbers that train, a client takes W + T A + 4 P (3 + m) bytes: values, gradient,
change, and the m moments of its optimizer. What Python and torch take themselves is not counted.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fedloom.backbones.weights import weight_bytes
from fedloom.core.work import LocalWork
from fedloom.tuning.base import Part, Rows, Session
from fedloom.tuning.sparing import Sparing
from fedloom.tuning.word_losses import CHUNK

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel

__all__ = [
    "SHAPES",
    "WORKING",
    "attached_inputs",
    "logit_bytes",
    "memory_of",
    "passes",
    "per_token",
    "weights_at",
]

WORKING = 2
"""Blocks' worth of memory that a block works in, forwards and backwards; measured, not derived."""
SHAPES = 16
"""Tokens of which a pass holds a multiple, padding included, where memory is short."""
LOGIT = 16
"""Bytes for each word of a vocabulary: its logit, log-probability and gradient in float32, and one
more that loss and gradient are made in; measured."""


def memory_of(
    session: Session, plan: Rows, trained: int, work: LocalWork, *, backward: bool
) -> int:
    """Bytes that a client's training holds at most.

    Args:
        session: what it trains over.
        plan: the examples of each of its batches.
        trained: numbers that train.
        work: says which optimizer.
        backward: whether activations are kept for a backward pass.
    """
    tokens = max(session.tokens(rows) for rows in passes(session, plan))
    return session.memory(tokens, backward=backward) + work.state_bytes(trained)


def passes(session: Session, plan: Rows) -> Rows:
    """The examples that are in memory together, of each of a client's batches."""
    if not isinstance(session, Sparing):
        return plan
    return [part[0] for rows in plan for part, _ in session.pieces([rows])]


def attached_inputs(model: "FusedModel", parts: Sequence[Part]) -> int:
    """Bytes of a token that attachments in a block keep for their backward pass, at most.

    The input of the first product is kept in any case, those of the others where something is
    attached there.
    """
    attached = {model.within(part.module) for part in parts}
    found = [
        sum(
            product.weight.shape[1]
            for product in block.products[1:]
            if any(member.name in attached for member in product.members)
        )
        for block in model.backbone.layers
    ]
    return max(found, default=0) * model.backbone.dtype.itemsize


def weights_at(model: "FusedModel", blocks: Collection[str]) -> int:
    """Bytes of the frozen weights of some blocks."""
    there = set(blocks) if model.backbone.final is not None else set(blocks) - {"final"}
    return weight_bytes(model.backbone, there)


def per_token(model: "FusedModel", length: int, blocks: int, *, head: bool) -> int:
    """Bytes that a token takes while it is trained on.

    Args:
        model: the model.
        length: tokens of an example.
        blocks: that keep activations for their backward pass or are worked in.
        head: whether the logits of a language model are made too.
    """
    taken = model.backbone.saved_bytes_per_token(length) * blocks
    return taken + logit_bytes(model, 1, chunks=False) if head else taken


def logit_bytes(model: "FusedModel", tokens: int, *, chunks: bool) -> int:
    """Bytes of the logits of a language model; with `chunks`, of so many as there are at a time."""
    if model.backbone.head is None or model.task.kind != "causal-lm":
        return 0
    whole = LOGIT * model.backbone.head.weight.shape[0] * tokens
    return min(whole, CHUNK * LOGIT // 4) if chunks else whole
