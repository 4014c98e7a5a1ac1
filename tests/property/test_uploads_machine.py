"""Uploads against a model that only knows which bytes each ticket has sent."""

import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedloom.core.errors import TransferError
from fedloom.server.upload import Upload
from fedloom.server.uploads import Uploads

LIMIT, SMALL, STALLED = 400, 64, 30.0
TICKETS = [f"{number:032x}" for number in range(3)]
SIZES = [0, 30, 64, 65, 200, 390]
WHO, ANY = st.sampled_from(TICKETS), st.integers(0, len(TICKETS) - 1)


@dataclass
class Sent:
    """What the model knows of a ticket."""

    data: bytes
    upload: Upload
    arrived: int = 0


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.uploads = self.opened()
        self.sent: dict[str, Sent] = {}

    def opened(self) -> Uploads:
        return Uploads(self.folder, LIMIT, small=SMALL, clock=lambda: self.now)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(who=WHO, size=st.sampled_from(SIZES), salt=st.integers(0, 1))
    def begin(self, who: str, size: int, salt: int) -> None:
        """A new payload, or a known one: from its beginning or from what has arrived."""
        data = bytes((salt * 31 + 7 * at) % 256 for at in range(size))
        have = self.uploads.status(who)
        known = self.sent.get(who)
        same = known is not None and known.data == data
        offset = have if same else 0
        try:
            upload = self.uploads.begin(who, size, sha256=digest(data), offset=offset)
        except TransferError as refusal:
            only_busy(refusal)
            if not same:
                self.sent.pop(who, None)
            return
        assert upload.offset == offset
        self.sent[who] = Sent(data, upload, offset)

    @precondition(lambda self: self.sent)
    @rule(pick=ANY, count=st.sampled_from([1, 30, 90, 390]), wait=st.booleans())
    def append(self, pick: int, count: int, wait: bool) -> None:
        _, state = self.known(pick)
        if state.arrived == len(state.data):
            return
        part = state.data[state.arrived : state.arrived + count]
        if self.lost(lambda: state.upload.append(state.arrived, zlib.crc32(part), part)):
            return
        state.arrived += len(part)
        if state.upload.due and not wait:
            state.upload.write()

    @precondition(lambda self: self.sent)
    @rule(pick=ANY, share=st.sampled_from([0.4, 0.8, 1.0]))
    def advance(self, pick: int, share: float) -> None:
        """Many chunks."""
        state, before = self.known(pick)[1], -1
        while before < state.arrived < share * len(state.data):
            before = state.arrived
            self.append(pick, 30, False)

    @precondition(lambda self: self.sent)
    @rule(pick=ANY, fault=st.sampled_from(["order", "crc", "beyond", "empty", "back"]))
    def refuse(self, pick: int, fault: str) -> None:
        """A bad chunk changes nothing."""
        _, state = self.known(pick)
        at = state.arrived
        offset, crc32, data = {
            "order": (at + 1, zlib.crc32(b"x"), b"x"),
            "back": (at - 1, zlib.crc32(b"x"), b"x"),
            "crc": (at, zlib.crc32(b"x") ^ 1, b"x"),
            "beyond": (at, zlib.crc32(bytes(500)), bytes(500)),
            "empty": (at, 0, b""),
        }[fault]
        with pytest.raises(TransferError):
            state.upload.append(offset, crc32, data)

    @precondition(lambda self: self.sent)
    @rule(pick=ANY)
    def cut(self, pick: int) -> None:
        self.known(pick)[1].upload.pause()

    @precondition(lambda self: self.sent)
    @rule(pick=ANY, share=st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0]))
    def resume(self, pick: int, share: float) -> None:
        """Goes on where the server says, or somewhere before; the old stream is done for."""
        who, state = self.known(pick)
        offset = int(self.uploads.status(who) * share)
        size, old = len(state.data), state.upload
        try:
            upload = self.uploads.begin(who, size, sha256=digest(state.data), offset=offset)
        except TransferError as refusal:
            only_busy(refusal)
            return
        assert upload.offset == offset
        self.sent[who] = Sent(state.data, upload, offset)
        with pytest.raises(TransferError, match="another took over"):
            old.append(offset, 0, b"x")

    @precondition(lambda self: self.sent)
    @rule(pick=ANY)
    def leave_out(self, pick: int) -> None:
        who, state = self.known(pick)
        size, beyond = len(state.data), self.uploads.status(who) + 1
        with pytest.raises(TransferError, match="goes on at"):
            self.uploads.begin(who, size, sha256=digest(state.data), offset=beyond)

    @precondition(lambda self: self.sent)
    @rule(pick=ANY, whole=st.booleans())
    def finish(self, pick: int, whole: bool) -> None:
        """Whole payloads are exactly what was declared; others are refused and stay."""
        who, state = self.known(pick)
        if whole:
            self.advance(pick, 1.0)
        if state.arrived < len(state.data):
            with pytest.raises(TransferError):
                state.upload.finish()
            return
        done: list[bytearray | Path] = []
        if self.lost(lambda: done.append(state.upload.finish())):
            return
        payload = done[0]
        have = payload.read_bytes() if isinstance(payload, Path) else bytes(payload)
        assert have == state.data
        assert isinstance(payload, Path) == (len(have) > SMALL)
        del self.sent[who]
        self.uploads.drop(who)
        assert self.uploads.status(who) == 0

    @precondition(lambda self: len(self.sent) > 1)
    @rule(who=WHO, size=st.sampled_from([30, 200]))
    def lie(self, who: str, size: int) -> None:
        """Bytes of another digest: refused, and the upload is back at its beginning."""
        try:
            upload = self.uploads.begin(who, size, sha256=digest(b"other"), offset=0)
        except TransferError as refusal:
            only_busy(refusal)
            self.sent.pop(who, None)
            return
        upload.append(0, zlib.crc32(bytes(size)), bytes(size))
        with pytest.raises(TransferError, match="declared was"):
            upload.finish()
        assert upload.offset == self.uploads.status(who) == 0
        self.sent.pop(who, None)

    @precondition(lambda self: self.sent)
    @rule(seconds=st.sampled_from([1.0, 31.0]), sweep=st.booleans())
    def wait(self, seconds: float, sweep: bool) -> None:
        self.now += seconds
        if sweep:
            self.uploads.sweep(STALLED)

    @precondition(lambda self: len(self.sent) > 1)
    @rule(pick=ANY)
    def drop(self, pick: int) -> None:
        who, _ = self.known(pick)
        self.uploads.drop(who)
        del self.sent[who]
        assert self.uploads.status(who) == 0

    @precondition(lambda self: len(self.sent) > 1)
    @rule()
    def restart(self) -> None:
        """Only what is in a file outlives the process."""
        self.uploads = self.opened()
        for who, state in list(self.sent.items()):
            have = self.uploads.status(who)
            assert have <= (state.arrived if len(state.data) > SMALL else 0)
            del self.sent[who]
            try:
                size = len(state.data)
                upload = self.uploads.begin(who, size, sha256=digest(state.data), offset=have)
            except TransferError as refusal:
                only_busy(refusal)
                continue
            self.sent[who] = Sent(state.data, upload, have)

    def known(self, pick: int) -> tuple[str, Sent]:
        """One of the payloads that were begun."""
        who = sorted(self.sent)[pick % len(self.sent)]
        return who, self.sent[who]

    def lost(self, use: Callable[[], None]) -> bool:
        """Whether the stream was ended to make room, in which case it says so."""
        try:
            use()
        except TransferError as refusal:
            only_busy(refusal)
            return True
        return False

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.uploads.held <= LIMIT

    @invariant()
    def nothing_arrives_that_was_not_sent(self) -> None:
        for who, state in self.sent.items():
            assert self.uploads.status(who) <= state.arrived


def only_busy(refusal: TransferError) -> None:
    """The one refusal that may come at any time: there is no room, or it was taken away."""
    if refusal.code != "busy":
        raise refusal


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


Machine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestUploads = Machine.TestCase
