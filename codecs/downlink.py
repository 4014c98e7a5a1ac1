"""A version of the model on its way to clients, in the smallest form for what each of them holds.

Whoever holds an earlier version is sent what happened since (`core.step_ledger`), and comes to the
same bits; whoever does not, the model itself. Where a pool's rounds are summed, that is the model
at its anchor and the sums: such a client keeps the anchor, and needs but the sums next time.

| bytes | what                                                                           |
|-------|--------------------------------------------------------------------------------|
| 4     | ``FLA1``                                                                       |
| 1     | 1: a model comes first; 2: the model before the last frame is the one to keep  |
| ...   | the model's frame, where there is one: its length (varint), its bytes          |
| ...   | how many advances (varint), the length of each (varint), their bytes           |
| 4     | CRC-32 of everything before it                                                 |

A frame without such a beginning is the model's alone. Arrays beside the model stand before either
(`codecs.briefing`).
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.codecs.base import Codec
from fedloom.codecs.briefing import with_briefing, without_briefing
from fedloom.codecs.exchange import received, sent_down
from fedloom.core.advance_codec import decode_advance
from fedloom.core.errors import CodecError, LayoutError
from fedloom.core.layout import Layout
from fedloom.core.octets import Octets, varint, varints
from fedloom.core.step_ledger import StepLedger
from fedloom.core.types import Briefing, Params, Payload, State

__all__ = ["Arrived", "Downlink", "Form", "follow", "follows"]

_MAGIC = b"FLA1"
_MODEL, _BEFORE_LAST = 1, 2
_CRC = struct.Struct("<I")


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

    def form(self, held: int | None) -> Form:
        """The smallest form for a client.

        Args:
            held: number of the version that it holds; None for none.
        """
        base = held if held is not None and self._frames(held) is not None else None
        if base not in self._forms:
            whole = self._whole()
            self._forms[None] = whole
            if base is not None:
                steps = self._steps(base)
                smaller = steps.payload.nbytes < whole.payload.nbytes
                self._forms[base] = steps if smaller else whole
        return self._forms[base]

    def digest_of(self, held: int) -> bytes:
        """The digest of a version from which there is a form; empty for others."""
        ledger, version = self.ledger, held - self._first
        if ledger is None or version not in ledger.versions:
            return b""
        return ledger.digests[ledger.versions.index(version)]

    @property
    def plain(self) -> Payload:
        """The model itself, with what is sent beside it."""
        if self._plain is None:
            version, params = self._state.version, self._state.params
            told = self._briefing
            self._plain = sent_down(params, self._codec, self._part, version=version, briefing=told)
        return self._plain

    def _frames(self, held: int) -> Sequence[bytes] | None:
        return self.ledger.since(held - self._first) if self.ledger else None

    def _whole(self) -> Form:
        ledger = self.ledger
        if ledger is None or ledger.anchor is None:
            return Form(self.plain, None, self._number)
        state = State(Params(self._state.params.layout, ledger.anchor), ledger.versions[-2])
        model = sent_down(state.params, self._codec, self._part, version=state.version)
        return self._form(None, ledger.frames[-1:], model.frame)

    def _steps(self, held: int) -> Form:
        return self._form(held, self._frames(held) or ())

    def _form(self, base: int | None, frames: Sequence[bytes], model: bytes = b"") -> Form:
        assert self.ledger is not None
        before_last = self.ledger.anchor is not None and bool(frames)
        place = self.ledger.kept if before_last else len(self.ledger.versions) - 1
        parts = [_MAGIC, bytes([(_MODEL if model else 0) | (_BEFORE_LAST if before_last else 0)])]
        if model:
            parts += [varint(len(model)), model]
        parts += [varint(len(frames)), varints(map(len, frames)), *frames]
        body = b"".join(parts)
        frame = with_briefing(body + _CRC.pack(zlib.crc32(body)), self._briefing)
        keeps = self.ledger.versions[place] + self._first
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
    if not frame.startswith(_MAGIC):
        params, _ = received(start, codec, Payload(payload.codec, frame), part)
        return Arrived(params, briefing, params)
    model, frames, before_last = _read(frame)
    params = base if base is not None else start
    if model:
        params, _ = received(start, codec, Payload(payload.codec, model), part)
    elif base is None:
        raise CodecError("downlink: it starts from a version that this client does not hold")
    kept = params
    for number, data in enumerate(frames, start=1):
        kept = params if before_last and number == len(frames) else kept
        try:
            params = decode_advance(data, start.layout).apply(params, seed)
        except LayoutError as error:
            raise CodecError(f"downlink: {error}", code="layout") from error
    return Arrived(params, briefing, kept if before_last else params)


def _read(frame: bytes) -> tuple[bytes, list[memoryview], bool]:
    """The model's frame, the advances, and whether the model before the last is to be kept."""
    body = frame[: -_CRC.size]
    if len(frame) < len(_MAGIC) + 2 + _CRC.size:
        raise CodecError(f"downlink: {len(frame)} bytes: no whole frame")
    if zlib.crc32(body) != _CRC.unpack(frame[-_CRC.size :])[0]:
        raise CodecError("downlink: the checksum of the frame is wrong; it was cut or changed")
    octets = Octets(memoryview(body)[len(_MAGIC) :], "downlink")
    flags = octets.byte()
    model = bytes(octets.take(octets.count())) if flags & _MODEL else b""
    lengths = octets.varints(octets.count())
    frames = [octets.take(length) for length in lengths]
    octets.end()
    return model, frames, bool(flags & _BEFORE_LAST)


def _lossless(codec: Codec) -> bool:
    return bool(getattr(codec, "lossless", False))
