"""One stream to the far blocks: messages go up and come down in the thread that trains.

No thread stands between gRPC and the one that trains, where each message would be handed on once
more; another one only watches that what is waited for comes in time.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from fedloom.core.body import Body, pieces
from fedloom.core.chunks import Chunk, chunk_message, read_chunk
from fedloom.core.errors import FedloomError, TransferError
from fedloom.protos import split_pb2 as pb
from fedloom.tuning.activation_codecs import Octets

__all__ = ["Call", "SpanStream"]

Call: TypeAlias = Callable[
    [Iterator[bytes], Callable[[Callable[[], object]], object]], Generator[bytes, None, None]
]
"""Makes a call of the Split service, such as `fedloom.client.channel.Channel.split`."""
_SECONDS = 5.0
"""In which a far side ends a stream whose end it is told."""


class SpanStream:
    """A stream that is open. For one thread.

    Args:
        call: makes the call.
        opening: the first message.
        patience: seconds that an answer may take.

    Raises:
        FedloomError: the far side refuses, or cannot be reached.
    """

    def __init__(
        self,
        call: Call,
        opening: Any,
        *,
        patience: float = 60.0,
    ) -> None:
        self._up: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._send(pb.Up(open=opening))
        self._watch = _Watch(patience)
        self._down: Iterator[bytes] = call(self._parts(), self._watch.over)
        self._watch.start()
        try:
            part = self._next()
            if part.WhichOneof("part") != "ready":
                raise self._strange(part)
        except FedloomError:
            self.close(over=False)
            raise
        self.ready: Any = part.ready

    def send(self, leg: Any, body: Octets) -> None:
        """Send a leg; `answer` is for whoever sent one before the next."""
        self._send(pb.Up(leg=leg))
        for piece in pieces(body):
            self._up.put(chunk_message(*piece))

    def answer(self) -> tuple[Any, memoryview]:
        """The next answer and its body, or an error of a leg with no body.

        Raises:
            FedloomError: the stream has ended, or nothing came for too long.
        """
        part = self._next()
        if part.WhichOneof("part") == "error":
            return part.error, memoryview(b"")
        if part.WhichOneof("part") != "answer":
            raise self._strange(part)
        answer, body = part.answer, Body(part.answer.size)
        while not body.whole:
            body.add(*self._chunk())
        return answer, body.data

    def evict(self, step: int) -> None:
        """No gradient will be asked for a step."""
        self._send(pb.Up(evict=pb.Evict(step=step)))

    def sync(self) -> Any:
        """Where the far side stands after all that was sent; a `Synced`.

        Raises:
            FedloomError: the stream has ended.
        """
        self._send(pb.Up(sync=pb.Sync()))
        part = self._next()
        if part.WhichOneof("part") != "synced":
            raise self._strange(part)
        return part.synced

    def close(self, *, over: bool) -> None:
        """End the stream.

        Args:
            over: the session is over, too: the far side forgets it.
        """
        if over:
            self._send(pb.Up(close=pb.Close()))
            self._up.put(None)
            self._watch.patience = _SECONDS
            with suppress(FedloomError):
                while self._arrived():
                    pass
        self._watch.end()
        self._up.put(None)
        self._down = iter(())

    def _send(self, message: Any) -> None:
        self._up.put(bytes(message.SerializeToString()))

    def _parts(self) -> Iterator[bytes]:
        while (part := self._up.get()) is not None:
            yield part

    def _next(self) -> Any:
        """The next message."""
        return _read(self._arrived())

    def _chunk(self) -> Chunk:
        """The next message, which must be a chunk."""
        message = self._arrived()
        if found := read_chunk(message):
            return found
        part = _read(message)
        if part.WhichOneof("part") != "chunk":
            raise self._strange(part)
        return part.chunk.offset, part.chunk.sum, memoryview(part.chunk.data)

    def _arrived(self) -> bytes:
        try:
            with self._watch:
                message = next(self._down, None)
        except FedloomError:
            if not self._watch.late:
                raise
            text = f"no answer of the far side for {self._watch.patience:g} s"
            raise TransferError(text, code="unreachable", retry_after=0.0) from None
        if message is None:
            text = "the far side ended the stream"
            raise TransferError(text, code="unreachable", retry_after=0.0)
        return message

    def _strange(self, part: Any) -> TransferError:
        text = f"the far side sent {part.WhichOneof('part')} out of turn"
        return TransferError(text, code="protocol")


def _read(message: bytes) -> Any:
    try:
        return pb.Down.FromString(message)
    except DecodeError:
        text = f"{len(message)} bytes of the far side that are no message"
        raise TransferError(text, code="protocol") from None


class _Watch(threading.Thread):
    """Cancels a call whose next message does not come in time.

    Args:
        patience: seconds that it may take.

    Attributes:
        late: whether the call was cancelled for that.
    """

    def __init__(self, patience: float) -> None:
        super().__init__(name="fedloom-span", daemon=True)
        self.patience, self.late = patience, False
        self._cancel: Callable[[], object] = lambda: None
        self._until: float | None = None
        self._ended = threading.Event()

    def over(self, cancel: Callable[[], object]) -> None:
        """What ends the call that is watched over."""
        self._cancel = cancel

    def __enter__(self) -> None:
        """Something is waited for."""
        self._until = time.monotonic() + self.patience

    def __exit__(self, *_: object) -> None:
        """It has come, or will not come."""
        self._until = None

    def end(self) -> None:
        """End the call, now, and the watch."""
        self._ended.set()
        self._cancel()

    def run(self) -> None:
        """Look now and then: nobody is woken for every message."""
        while not self._ended.wait(min(self.patience / 8, 1.0)):
            until = self._until
            if until is not None and time.monotonic() > until:
                self.late = True
                self._cancel()
