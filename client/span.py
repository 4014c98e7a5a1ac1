"""Far blocks over a stream: what a device's training sees of them is a `fedloom.tuning.far.Far`.

A call blocks the thread that trains. Where the stream breaks, it is opened again, both sides agree
on what is done, and the leg is sent again; a step whose activations were lost with the stream ends
with the code ``evicted``, which `fedloom.tuning.far` answers by sending its input again.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import lengths_of
from fedloom.client.backoff import Backoff
from fedloom.client.refusals import is_passing
from fedloom.client.span_stream import Call, SpanStream
from fedloom.core.contract import PROTOCOL
from fedloom.core.errors import SplitError, TransferError
from fedloom.core.seeds import stream
from fedloom.protos import split_pb2 as pb
from fedloom.tuning.activation_codecs import Octets, codec_named
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["DTYPE_NAMES", "RemoteFar", "SpanPlan"]

Found = TypeVar("Found")

DTYPE_NAMES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}
_READS = {None: pb.ALL, "first": pb.FIRST, "last": pb.LAST}
_FAR_CODES = frozenset(
    (
        *("plan", "cut", "labels", "dtype", "codec", "shape", "length", "not-finite", "order"),
        *("credit", "resume", "memory"),
    )
)


@dataclass(frozen=True)
class SpanPlan:
    """What a session is opened with.

    Attributes:
        plan: what both sides work on.
        first: the first far block.
        last: the block after the last far one.
        dtype: of hidden states.
        up: name of the codec of what goes up.
        down: name of the codec of what comes down.
        client: whose session it is; with `seed` and `round` it says how codecs round.
        seed: of the job.
        round: of the work.
        far_labels: labels may be sent; else they stay at home.
        version: of this software.
    """

    plan: str
    first: int
    last: int
    dtype: torch.dtype = torch.float32
    up: str = "float32"
    down: str = "float32"
    client: str = ""
    seed: int = 0
    round: int = 0
    far_labels: bool = False
    version: str = ""


class RemoteFar:
    """Far blocks behind a stream (`fedloom.tuning.far.Far`). For one thread.

    Args:
        call: makes a call; asked again after a break.
        plan: what the session is opened with.
        patience: seconds that an answer may take.
        attempts: how often a leg is sent before a broken connection is given up.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        call: Call,
        plan: SpanPlan,
        *,
        patience: float = 60.0,
        attempts: int = 5,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._call, self._plan = call, plan
        self._up, self._down = codec_named(plan.up), codec_named(plan.down)
        self._patience, self._attempts, self._sleep = patience, attempts, sleep
        self._backoff = Backoff(first=0.2, most=10.0)
        self._session = secrets.token_bytes(16)
        self._stream: SpanStream | None = None
        self._done: pb.Mark | None = None
        self.bytes_up = self.bytes_down = 0
        self.version = 0

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `fedloom.tuning.far.Far.forward`."""
        leg = _leg(pb.FORWARD, step, hidden, packing, train=train)
        return self._exchange(leg, hidden)[1]

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `fedloom.tuning.far.Far.backward`."""
        leg = pb.Leg(kind=pb.BACKWARD, step=step, train=True, shape=grad.shape)
        answer, found = self._exchange(leg, grad)
        self._done = pb.Mark(step=step, version=answer.version)
        return found

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """See `fedloom.tuning.far.Far.losses`.

        Raises:
            SplitError: labels stay at home (``labels``), and as there.
        """
        if not self._plan.far_labels:
            raise SplitError("labels stay at home: the plan says so", code="labels")
        leg = _leg(pb.LOSSES, step, hidden, packing, train=train)
        leg.places.index.extend(places.index.tolist())
        leg.places.target.extend(places.target.tolist())
        leg.places.owner.extend(places.owner.tolist())
        answer, grad = self._exchange(leg, hidden)
        if train:
            self._done = pb.Mark(step=step, version=answer.version)
        return _losses(answer.losses, hidden.device), grad

    def open(self) -> None:
        """Begin the session now: a far side that waits for sessions waits for this one from now on.

        Raises:
            FedloomError: the far side refuses, or cannot be reached.
        """
        self._tried(lambda stream: stream)

    def sync(self) -> int:
        """How often the far tensors have stepped, once all that was sent is done.

        Raises:
            FedloomError: the far side cannot be asked.
        """
        self.version = int(self._tried(lambda stream: stream.sync()).version)
        return self.version

    def close(self) -> None:
        """The session is over. What is not sent yet is lost."""
        if self._stream is not None:
            self._stream.close(over=True)
            self._stream = None

    def drop(self) -> None:
        """End the stream at once, whatever is under way; the far side keeps the session a while."""
        self._broken()

    def _exchange(self, leg: Any, tensor: Tensor) -> tuple[Any, Tensor]:
        what = "backward" if leg.kind == pb.BACKWARD else "forward"
        purpose, plan = f"split.{what} up.{leg.step}", self._plan
        draw = stream(plan.seed, purpose, round=plan.round, client=plan.client)
        body = self._up.encode(tensor, draw)
        leg.size = len(body)
        answer, found = self._answer(leg, body)
        if isinstance(answer, pb.Error):
            raise SplitError(answer.text, code=answer.code)
        if (answer.kind, answer.step) != (leg.kind, leg.step):
            text = f"an answer to step {answer.step}; step {leg.step} was asked"
            raise SplitError(text, code="order")
        self.version = int(answer.version)
        self.bytes_down += len(found)
        out = self._down.decode(found, tuple(answer.shape))
        return answer, out.to(tensor.device, tensor.dtype)

    def _answer(self, leg: Any, body: Octets) -> tuple[Any, memoryview]:
        """Send a leg until it is answered."""

        def once(stream: SpanStream) -> tuple[Any, memoryview]:
            stream.send(leg, body)
            self.bytes_up += len(body)
            return stream.answer()

        return self._tried(once)

    def _tried(self, do: Callable[[SpanStream], Found]) -> Found:
        """Do something over the stream, until it is done or trying again does not help."""
        while True:
            try:
                found = do(self._open())
            except TransferError as error:
                self._broken()
                if error.code in _FAR_CODES:
                    raise SplitError(str(error), code=error.code) from None
                if not is_passing(error) or self._backoff.failures + 1 >= self._attempts:
                    raise
                self._sleep(self._backoff.next(error.retry_after))
            else:
                self._backoff.reset()
                return found

    def _open(self) -> SpanStream:
        if self._stream is None:
            opening = _opening(self._plan, self._session, self._done)
            self._stream = SpanStream(self._call, opening, patience=self._patience)
            self.version = int(self._stream.ready.version)
        return self._stream

    def _broken(self) -> None:
        if self._stream is not None:
            self._stream.close(over=False)
            self._stream = None


def _opening(plan: SpanPlan, session: bytes, done: Any) -> Any:
    return pb.Open(
        protocol=PROTOCOL,
        version=plan.version,
        session=session,
        plan=plan.plan,
        first=plan.first,
        last=plan.last,
        labels=pb.FAR if plan.far_labels else pb.HOME,
        dtype=DTYPE_NAMES[plan.dtype],
        codec_up=plan.up,
        codec_down=plan.down,
        seed=plan.seed,
        round=plan.round,
        done=done,
    )


def _leg(kind: "pb.Kind", step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Any:
    lengths = lengths_of(packing)
    return pb.Leg(
        kind=kind,
        step=step,
        train=train,
        shape=hidden.shape,
        counts=[len(own) for own in lengths.tokens],
        lengths=[n for own in lengths.tokens for n in own],
        read=_READS[lengths.read],
    )


def _losses(found: Any, device: torch.device) -> FarLosses:
    loss, correct, count, each = (
        torch.tensor(list(n), dtype=torch.float32, device=device)
        for n in (found.loss, found.correct, found.count, found.each)
    )
    predicted = torch.tensor(list(found.predicted), dtype=torch.int64, device=device)
    return FarLosses(loss, correct, count, each, predicted)
