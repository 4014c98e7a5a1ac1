"""One client's session with far blocks: which leg may come next, and what is answered.

A session outlives its stream. A client that comes back says what it knows to be done; the answer to
the last step is kept, so that a step whose answer was lost is not done twice.
"""

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedloom.backbones.lengths import packing_of
from fedloom.core.errors import SplitError
from fedloom.core.seeds import stream
from fedloom.core.types import ClientId
from fedloom.protos import split_pb2 as pb
from fedloom.server.failpoints import reach
from fedloom.server.split_host import Host, Terms
from fedloom.server.split_journal import Journal, SessionRow
from fedloom.server.split_messages import Answered, LegIn, Mark, answered_of, parts_of
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.finite import is_finite
from fedloom.tuning.leg_bytes import figure_bytes, length_bytes, place_bytes

__all__ = ["Session"]


@dataclass(eq=False)
class Session:
    """What is agreed with one client, and where it stands.

    Attributes:
        key: names it to the host.
        client: whose it is.
        opened: the message that it began with.
        host: of the far blocks.
        terms: what the host takes.
        done: the last step whose gradient was found; None before the first.
        last: the answer to it.
        held: steps whose gradient may be asked for, and the shape that it has.
        newest: the highest step that came; None where that is not known after a restart.
        journal: where steps are written down; None for nowhere.
        sent: bytes that the client's legs took, as `fedloom.tuning.leg_bytes` counts them.
        received: bytes that the answers took.
    """

    key: str
    client: ClientId
    opened: Any
    host: Host
    terms: Terms
    done: Mark | None = None
    last: Answered | None = None
    held: dict[int, tuple[int, ...]] = field(default_factory=dict)
    newest: int | None = -1
    journal: Journal | None = None
    sent: int = 0
    received: int = 0
    _one: threading.RLock = field(default_factory=threading.RLock)

    @staticmethod
    def again(row: SessionRow, host: Host, terms: Terms, journal: Journal) -> "Session":
        """A session of a process that ended."""
        opened = pb.Open.FromString(row.opened)
        session = Session(row.key, row.client, opened, host, terms, journal=journal)
        session.done, session.newest = Mark(row.step, row.version), None
        session.last = answered_of(b"".join(row.answer))
        session.sent, session.received = row.sent, row.received
        return session

    def agree(self, theirs: Mark | None) -> None:
        """Whether the session can go on from what a client knows to be done.

        Raises:
            SplitError: one of both has lost more than the step that was under way (``resume``).
        """
        with self._one:
            ours = self.done
        if theirs == ours:
            return
        ahead = ours is not None and (theirs is None or theirs.step < ours.step)
        if not ahead or self.last is None:
            text = f"the client has done {_said(theirs)}; here {_said(ours)} is done"
            raise SplitError(text, code="resume")

    def dropped(self) -> None:
        """The stream broke: nothing that was under way is kept."""
        with self._one:
            self.held.clear()
            self.host.evict(self.key)

    def evict(self, step: int) -> None:
        """No gradient will be asked for a step."""
        with self._one:
            self.held.pop(step, None)
            self.host.evict(self.key, step)

    def work(self, leg: LegIn) -> Answered:
        """Do what a leg asks.

        Raises:
            SplitError: it does not come in its turn, or it holds what is no number; with code
                ``evicted`` or ``memory`` the session goes on.
        """
        with self._one:
            reach("leg-arrived")
            if self._again(leg):
                assert self.last is not None
                return self.last
            self._check_turn(leg)
            return self._worked(leg)

    def _worked(self, leg: LegIn) -> Answered:
        try:
            return self._backward(leg) if leg.lengths is None else self._forward(leg)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            self.evict(leg.step)
            raise SplitError(f"step {leg.step}: no memory for it here", code="memory") from None

    def _again(self, leg: LegIn) -> bool:
        done, last = self.done, self.last
        if done is None or last is None or leg.step != done.step:
            return False
        return leg.kind == last.kind and (leg.kind == pb.BACKWARD or leg.train)

    def _check_turn(self, leg: LegIn) -> None:
        steps = leg.kind == pb.BACKWARD or leg.train
        if steps and self.done is not None and leg.step <= self.done.step:
            text = f"step {leg.step} comes after step {self.done.step} is done"
            raise SplitError(text, code="order")
        if leg.kind != pb.BACKWARD:
            return
        if self.newest is not None and leg.step > self.newest:
            raise SplitError(f"a gradient of step {leg.step}, which never came", code="order")
        if leg.step not in self.held:
            raise SplitError(f"step {leg.step} is not held any more", code="evicted")
        if leg.shape != self.held[leg.step]:
            expected = list(self.held[leg.step])
            text = f"a gradient {list(leg.shape)} of step {leg.step}; expected {expected}"
            raise SplitError(text, code="shape")

    def _forward(self, leg: LegIn) -> Answered:
        assert leg.lengths is not None
        hidden, packing = self._tensor(leg), packing_of(leg.lengths)
        if leg.places is not None:
            places, train = leg.places, leg.train
            losses, grad = self.host.losses(
                self.key, leg.step, hidden, packing, places, train=train
            )
            return self._stepped(leg, replace(self._answer(leg, grad), losses=losses))
        out = self.host.forward(self.key, leg.step, hidden, packing, train=leg.train)
        if leg.train:
            self._hold(leg.step, tuple(out.shape))
        answer = self._answer(leg, out)
        self._count(leg, answer)
        return answer

    def _backward(self, leg: LegIn) -> Answered:
        try:
            grad = self.host.backward(self.key, leg.step, self._tensor(leg))
        finally:
            self.held.pop(leg.step, None)
        return self._stepped(leg, self._answer(leg, grad))

    def _hold(self, step: int, shape: tuple[int, ...]) -> None:
        self.held[step] = shape
        self.newest = None if self.newest is None else max(step, self.newest)
        while len(self.held) > self.terms.credit:
            self.evict(next(iter(self.held)))

    def _stepped(self, leg: LegIn, answer: Answered) -> Answered:
        self._count(leg, answer)
        if leg.kind == pb.BACKWARD or leg.train:
            reach("step-done")
            self.done, self.last = Mark(leg.step, answer.version), answer
            self._write()
            reach("step-written")
        return answer

    def _count(self, leg: LegIn, answer: Answered) -> None:
        examples = sum(map(len, leg.lengths.tokens)) if leg.lengths else 0
        self.sent += len(leg.body) + length_bytes(examples)
        if leg.places is None:
            self.received += len(answer.body)
            return
        predictions = len(leg.places.index)
        self.sent += place_bytes(predictions)
        self.received += figure_bytes(predictions, leg.shape[0])
        self.received += len(answer.body) if leg.train else 0

    def _write(self) -> None:
        if self.journal is None or self.done is None or self.last is None:
            return
        opened, lane = bytes(self.opened.SerializeToString()), self.host.lane(self.key)
        step, version, answer = self.done.step, self.done.version, parts_of(self.last)
        where = (self.key, self.client, lane, opened, step, version, answer)
        row = SessionRow(*where, self.sent, self.received)
        self.journal.write(row, lambda: self.host.kept(self.key))

    def _tensor(self, leg: LegIn) -> Tensor:
        found = codec_named(self.opened.codec_up).decode(leg.body, leg.shape)
        if not is_finite(found):
            raise SplitError(f"step {leg.step}: what came is not finite", code="not-finite")
        return found

    def _answer(self, leg: LegIn, tensor: Tensor) -> Answered:
        what = "forward" if leg.kind == pb.FORWARD else "backward"
        purpose, opened = f"split.{what} down.{leg.step}", self.opened
        draw = stream(opened.seed, purpose, round=opened.round, client=self.client)
        try:
            body = codec_named(opened.codec_down).encode(tensor, draw)
        except SplitError:
            if is_finite(tensor):
                raise
            text = f"step {leg.step}: what came of it is not finite"
            raise SplitError(text, code="not-finite") from None
        version = self.host.version(self.key)
        return Answered(leg.kind, leg.step, version, tuple(tensor.shape), body)


def _said(mark: Mark | None) -> str:
    return "nothing" if mark is None else f"step {mark.step} at version {mark.version}"


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)
