"""Between messages of a split session and what they say, checked against the terms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fedloom.backbones.lengths import Lengths
from fedloom.backbones.packing import Read
from fedloom.core.body import pieces
from fedloom.core.chunks import chunk_message
from fedloom.core.errors import SplitError, TransferError
from fedloom.protos import split_pb2 as pb
from fedloom.server.messages import check_protocol
from fedloom.server.split_host import Terms
from fedloom.tuning.activation_codecs import Octets
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = [
    "Answered",
    "LegIn",
    "Mark",
    "answered_of",
    "check_open",
    "messages_of",
    "parts_of",
    "read_leg",
]

_READS: dict[int, Read] = {pb.ALL: None, pb.FIRST: "first", pb.LAST: "last"}
_SESSION = 16


@dataclass(frozen=True)
class Mark:
    """Where a session stands.

    Attributes:
        step: its last step whose gradient went down.
        version: how often the far tensors had stepped by then.
    """

    step: int
    version: int


@dataclass(frozen=True)
class LegIn:
    """A leg that arrived.

    Attributes:
        kind: of `pb.Kind`.
        step: of the session.
        train: whether a gradient will be asked for.
        shape: of the tensor in the body.
        lengths: of the examples; None for a gradient.
        places: what is predicted, where labels come along.
        body: of the tensor.
    """

    kind: pb.Kind
    step: int
    train: bool
    shape: tuple[int, ...]
    lengths: Lengths | None
    places: Places | None = None
    body: memoryview = field(default=memoryview(b""), repr=False)


@dataclass(frozen=True)
class Answered:
    """What goes back for a leg.

    Attributes:
        kind: of the leg.
        step: of the leg.
        version: how often the far tensors have stepped.
        shape: of the tensor in the body.
        body: of the tensor.
        losses: what was found with the labels.
    """

    kind: pb.Kind
    step: int
    version: int
    shape: tuple[int, ...]
    body: Octets = field(repr=False)
    losses: FarLosses | None = None


def check_open(message: Any, terms: Terms) -> None:
    """Raise `SplitError` where a session cannot be had as it is asked for."""
    check_protocol(message.protocol)
    if len(message.session) != _SESSION:
        text = f"session = {len(message.session)} bytes; expected {_SESSION}"
        raise TransferError(text, code="protocol")
    if message.plan != terms.plan:
        text = f"plan = {message.plan[:100]!r}; here it is {terms.plan!r}"
        raise SplitError(text, code="plan")
    first, last = message.first, message.last
    inside = terms.within and terms.first <= first < last <= terms.last
    if not inside and (first, last) != (terms.first, terms.last):
        asked = f"blocks {first} to {last}"
        raise SplitError(f"{asked}; here are {terms.first} to {terms.last}", code="cut")
    if message.labels not in pb.Labels.values() or (message.labels == pb.FAR and not terms.labels):
        raise SplitError("labels = far; here they stay at home", code="labels")
    if message.dtype != terms.dtype:
        text = f"dtype = {message.dtype[:100]!r}; here it is {terms.dtype!r}"
        raise SplitError(text, code="dtype")
    for name in (message.codec_up, message.codec_down):
        if name not in terms.codecs:
            known = ", ".join(terms.codecs)
            raise SplitError(f"codec = {name[:100]!r}: one of {known}", code="codec")


def read_leg(message: Any, terms: Terms, *, labels: int) -> LegIn:
    """A leg's header, checked; whether it comes in its turn is for the session to say.

    Raises:
        SplitError: it does not fit what was agreed.
        TransferError: its body is larger than agreed (``too-large``).
    """
    if message.kind not in pb.Kind.values():
        raise SplitError(f"kind = {message.kind}: not known here", code="order")
    losses = message.kind == pb.LOSSES
    if labels == pb.HOME and (losses or message.HasField("places")):
        raise SplitError("a leg with labels; they stay at home", code="labels")
    shape = _shape(message, terms)
    lengths = None if message.kind == pb.BACKWARD else _lengths(message, terms)
    if lengths and shape[:2] != (len(lengths.tokens), lengths.longest):
        expected = [len(lengths.tokens), lengths.longest, terms.width]
        text = f"shape = {list(shape)}; its lengths make {expected}"
        raise SplitError(text, code="shape")
    places = _places(message.places, shape) if losses else None
    return LegIn(message.kind, message.step, message.train, shape, lengths, places)


def _shape(message: Any, terms: Terms) -> tuple[int, ...]:
    shape = tuple(message.shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] != terms.width:
        text = f"shape = {list(shape)[:5]}; expected three numbers, the last {terms.width}"
        raise SplitError(text, code="shape")
    if shape[0] * shape[1] > terms.max_tokens:
        text = f"{shape[0] * shape[1]} tokens; a leg has at most {terms.max_tokens}"
        raise SplitError(text, code="length")
    if message.size > terms.max_bytes:
        text = f"a body of {message.size} bytes; at most {terms.max_bytes}"
        raise TransferError(text, code="too-large")
    return shape


def _lengths(message: Any, terms: Terms) -> Lengths:
    counts, tokens = list(message.counts), list(message.lengths)
    if not counts or min(counts) < 1 or sum(counts) != len(tokens) or min(tokens) < 1:
        text = f"counts of {sum(counts)} examples, and {len(tokens)} lengths; all at least 1"
        raise SplitError(text, code="shape")
    if max(tokens) > terms.max_length:
        text = f"an example of {max(tokens)} tokens; at most {terms.max_length}"
        raise SplitError(text, code="length")
    if message.read not in _READS:
        raise SplitError(f"read = {message.read}: not known here", code="shape")
    return Lengths(_split(tokens, counts), _READS[message.read])


def _split(tokens: Sequence[int], counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    rest = iter(tokens)
    return tuple(tuple(next(rest) for _ in range(count)) for count in counts)


def _places(message: Any, shape: tuple[int, ...]) -> Places:
    found = [np.fromiter(f, np.int64) for f in (message.index, message.target, message.owner)]
    index, _, owner = found
    if len({len(each) for each in found}) != 1 or not len(index):
        text = f"places of {[len(each) for each in found]} numbers; expected as many of each"
        raise SplitError(text, code="shape")
    if index.max() >= shape[0] * shape[1] or owner.max() >= shape[0]:
        text = f"places up to {index.max()}, of client {owner.max()}; there are {list(shape[:2])}"
        raise SplitError(text, code="shape")
    return Places(*found)


def messages_of(answer: Answered) -> Iterator[bytes]:
    """An answer as it is sent: its header, then its body."""
    yield bytes(pb.Down(answer=_head(answer)).SerializeToString())
    for piece in pieces(answer.body):
        yield chunk_message(*piece)


def parts_of(answer: Answered) -> tuple[Octets, ...]:
    """An answer as it is kept: its body, its header, and four bytes of the header's length."""
    head = bytes(_head(answer).SerializeToString())
    return answer.body, head, len(head).to_bytes(4, "little")


def answered_of(kept: Octets) -> Answered:
    """An answer that was kept."""
    end = len(kept) - 4
    size = int.from_bytes(kept[end:], "little")
    head = pb.Answer.FromString(bytes(kept[end - size : end]))
    said = head.losses
    losses = None
    if head.HasField("losses"):
        numbers = (said.loss, said.correct, said.count, said.each, said.predicted)
        losses = FarLosses(*(torch.tensor(list(each)) for each in numbers))
    body = kept[: end - size]
    return Answered(head.kind, head.step, head.version, tuple(head.shape), body, losses)


def _head(answer: Answered) -> Any:
    return pb.Answer(
        kind=answer.kind,
        step=answer.step,
        version=answer.version,
        shape=answer.shape,
        losses=None if answer.losses is None else _losses(answer.losses),
        size=len(answer.body),
    )


def _losses(found: FarLosses) -> Any:
    return pb.FarLosses(
        loss=found.loss.tolist(),
        correct=found.correct.tolist(),
        count=found.count.tolist(),
        each=found.each.tolist(),
        predicted=found.predicted.tolist(),
    )
