"""A version of the model on its way to clients, in the smallest form for what each of them holds.

Whoever holds an earlier version is sent what happened since (`core.step_ledger`), and comes to the
same bits; whoever does not, the model itself. Where a pool's rounds are summed, that is the model
at its anchor and the sums: such a client keeps the anchor, and needs but the sums next time.

`codecs.steps_frame` is what then travels; a frame without its beginning is the model's alone.
Arrays beside the model stand before either (`codecs.briefing`).
"""

from dataclasses import dataclass

from fedloom.codecs.base import Codec
from fedloom.codecs.briefing import with_briefing, without_briefing
from fedloom.codecs.exchange import received, sent_down
from fedloom.codecs.steps_frame import MAGIC, Sent, read_sent, write_sent
from fedloom.core.advance_codec import decode_advance
from fedloom.core.errors import CodecError, LayoutError
from fedloom.core.layout import Layout
from fedloom.core.step_ledger import StepLedger
from fedloom.core.types import Briefing, Delta, Params, Payload, State

__all__ = ["Arrived", "Downlink", "Form", "follow", "follows"]


def follows(up: Codec, down: Codec) -> bool:
    """Whether clients of a job follow the model by what happened to it, from the first round on.

    They do where they send steps along known directions, and the model comes down without loss: a
    rounded model is not the server's, so no advance leads from it to the next.

    Args:
        up: the job's codec of updates.
        down: its codec of models.
    """
    return bool(getattr(up, "sends_steps", False)) and _lossless(down)


@dataclass(frozen=True)
class Form:
    """What is sent of a version to a client.

    Attributes:
        payload: every byte of it.
        base: the version that it starts from; None where it starts from nothing.
        keeps: the version that the client is to keep.
    """

    payload: Payload
    base: int | None
    keeps: int


class Downlink:
    """A state's model as it is sent to clients; each form is made once.

    Versions are numbered through the whole run: version 0 is the model before its first round,
    which a client can make by itself from the job's seed.

    Args:
        state: whose model.
        codec: how models travel.
        part: the tensors that clients may not have yet.
        number: of the version: rounds of the whole run that are done.
        briefing: what is sent beside the model.
        following: whether clients follow from the first round on; see `follows`.

    Attributes:
        ledger: what leads to this version; None where clients do not follow.
        digest: of the model; empty where clients do not follow.
    """

    def __init__(
        self,
        state: State,
        codec: Codec,
        part: Layout,
        *,
        number: int,
        briefing: Briefing | None = None,
        following: bool = False,
    ) -> None:
        self._state, self._codec, self._part, self._number = state, codec, part, number
        self._briefing = dict(briefing or {})
        self.ledger: StepLedger | None = None
        if _lossless(codec):
            begun = StepLedger.begun(state) if following else None
            self.ledger = StepLedger.of(state) or begun
        self.digest = self.ledger.digests[-1] if self.ledger else b""
        self._first = number - state.version  # the number of the stage's version 0
        self._plain: Payload | None = None
        self._forms: dict[int | None, Form] = {}
        self._cuts: dict[int, Payload] = {}

    def form(self, held: int | None) -> Form:
        """The smallest form for a client.

        Args:
            held: number of the version that it holds; None for none.
        """
        base = held if held is not None and self._place(held) is not None else None
        if base not in self._forms:
            whole = self._whole()
            self._forms[None] = whole
            if base is not None:
                steps = self._form(base)
                smaller = steps.payload.nbytes < whole.payload.nbytes
                self._forms[base] = steps if smaller else whole
        return self._forms[base]

    def digest_of(self, held: int) -> bytes:
        """The digest of a version from which there is a form; empty for others."""
        place = self._place(held)
        return b"" if self.ledger is None or place is None else self.ledger.digests[place]

    def cut(self, rank: int) -> Payload | None:
        """The model as clients of a rank are sent it, made once for all of them.

        None where clients follow the model by what happened to it: that is of all of the model.
        """
        if self.ledger is not None:
            return None
        if rank not in self._cuts:
            self._cuts[rank] = self._sent(rank)
        return self._cuts[rank]

    @property
    def plain(self) -> Payload:
        """The model itself, with what is sent beside it."""
        if self._plain is None:
            self._plain = self._sent(None)
        return self._plain

    def _sent(self, rank: int | None) -> Payload:
        version, params, told = self._state.version, self._state.params, self._briefing
        own = params, self._codec, self._part
        return sent_down(*own, version=version, briefing=told, rank=rank)

    def _place(self, held: int) -> int | None:
        return None if self.ledger is None else self.ledger.place(held - self._first)

    def _whole(self) -> Form:
        ledger = self.ledger
        if ledger is None or ledger.anchor is None:
            return Form(self.plain, None, self._number)
        anchor = Params(self._state.params.layout, ledger.anchor)
        model = sent_down(anchor, self._codec, self._part, version=ledger.versions[-2])
        return self._form(None, model.frame)

    def _form(self, base: int | None, model: bytes = b"") -> Form:
        """What happened since a version; or, after a model, since its last version but one."""
        ledger, params = self.ledger, self._state.params
        assert ledger is not None
        known = None if base is None else self._place(base)
        place = len(ledger.versions) - 2 if known is None else known
        frames = ledger.frames[place:]
        before_last = ledger.anchor is not None and bool(frames)
        last = len(ledger.frames) - 1 if before_last else place
        given, anchored = _as_it_is(params, ledger, slice(last, None)), None
        if before_last and ledger.anchor is not None:
            anchor = Params(params.layout, ledger.anchor)
            anchored = _as_it_is(anchor, ledger, slice(place, last))
        sent = write_sent(Sent(model, given, anchored, frames), params.layout)
        frame = with_briefing(sent, self._briefing)
        keeps = ledger.versions[ledger.kept if before_last else -1] + self._first
        return Form(Payload(self._codec.name, frame), base, keeps)


@dataclass(frozen=True)
class Arrived:
    """What a client has of what came down.

    Attributes:
        params: the model.
        briefing: what came beside it.
        kept: the model that it keeps, to follow from there.
    """

    params: Params
    briefing: Briefing
    kept: Params


def follow(
    start: Params, codec: Codec, payload: Payload, part: Layout, *, base: Params | None, seed: int
) -> Arrived:
    """The model that comes of what was sent: the server's bits.

    Args:
        start: the model before the first round.
        codec: how models travel.
        payload: every byte that came.
        part: the tensors of a model that is sent whole.
        base: the version that the payload starts from; None where it starts from nothing.
        seed: the run's.

    Raises:
        CodecError: the payload is cut, damaged or of another layout, or starts from a version that
            is not given.
    """
    frame, briefing = without_briefing(payload.frame)
    if not frame.startswith(MAGIC):
        params, _ = received(start, codec, Payload(payload.codec, frame), part)
        return Arrived(params, briefing, params)
    sent = read_sent(frame, start.layout)
    params = base if base is not None else start
    if sent.model:
        params, _ = received(start, codec, Payload(payload.codec, sent.model), part)
    elif base is None:
        raise CodecError("downlink: it starts from a version that this client does not hold")
    kept = params
    for number, data in enumerate(sent.frames, start=1):
        if sent.before_last is not None and number == len(sent.frames):
            params = kept = _with(params, sent.before_last)
        try:
            params = decode_advance(data, start.layout).apply(params, seed)
        except LayoutError as error:
            raise CodecError(f"downlink: {error}", code="layout") from error
    params = _with(params, sent.given)
    return Arrived(params, briefing, params if sent.before_last is None else kept)


def _as_it_is(params: Params, ledger: StepLedger, span: slice) -> Delta:
    """The tensors that were changed number by number in a part of the chain."""
    part = ledger.touched_in(span, params.layout)
    return Delta(part, params.layout.gather(params.vector, part))


def _with(params: Params, given: Delta) -> Params:
    return params.having(Params(given.layout, given.vector))


def _lossless(codec: Codec) -> bool:
    return bool(getattr(codec, "lossless", False))
