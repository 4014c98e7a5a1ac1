"""How much memory a client's training takes, from the shapes: weights, activations, optimizer.

With W bytes of frozen weights, T tokens in the largest batch, A bytes that a token takes in the
blocks and P numbers that train, a client takes W + T A + L + 4 P (3 + m) bytes: values, gradient,
change, and the m moments of its optimizer. L are a language model's logits: of tokens that are
predicted, as many as there are at a time. What Python and torch take themselves is not counted.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fedloom.backbones.weights import weight_bytes
from fedloom.core.work import LocalWork
from fedloom.tuning.base import Part, Rows, Session
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.sparing import Sparing
from fedloom.tuning.word_losses import CHUNK

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel

__all__ = [
    "MOST_LOGITS",
    "SHAPES",
    "WORKING",
    "answer_share",
    "attached_inputs",
    "logit_bytes",
    "memory_of",
    "passes",
    "weights_at",
]

WORKING = 2
"""Blocks' worth of memory that a block works in, forwards and backwards; measured, not derived."""
SHAPES = 16
"""Tokens of which a pass holds a multiple, padding included, where memory is short."""
LOGIT = 16
"""Bytes for each word of a vocabulary: its logit, log-probability and gradient in float32, and one
more that loss and gradient are made in; measured."""
MOST_LOGITS = CHUNK * LOGIT // 4
"""Bytes of all logits that there are at a time: more go part by part."""


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


def logit_bytes(model: "FusedModel", words: int) -> int:
    """Bytes of the logits of a language model that there are at a time, of so many predictions."""
    if model.backbone.head is None or model.task.kind != "causal-lm":
        return 0
    return min(LOGIT * model.backbone.head.weight.shape[0] * words, MOST_LOGITS)


def answer_share(examples: Examples) -> float:
    """The largest share of an example's tokens that are predicted: prompts are not."""
    if not isinstance(examples, TextExamples):
        return 0.0
    rows, lengths = range(len(examples)), examples.lengths()
    prompts = (max(examples.prompt_length(row), 1) for row in rows)
    shares = (1 - prompt / max(n, 1) for prompt, n in zip(prompts, lengths, strict=True))
    return max(shares, default=0.0)
