"""One stream to the far blocks: messages up from any thread, messages down in their order."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

from fedloom.core.body import Body, pieces
from fedloom.core.errors import FedloomError, TransferError
from fedloom.protos import split_pb2 as pb

__all__ = ["Call", "SpanStream"]

Call: TypeAlias = Callable[
    [Iterator[Any], Callable[[Callable[[], object]], object]], Generator[Any, None, None]
]
"""Makes a call of the Split service, such as `fedloom.client.channel.Channel.split`."""
_SECONDS = 5.0
"""In which a far side ends a stream whose end it is told."""


class SpanStream:
    """A stream that is open.

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
        self._patience = patience
        self._up: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._down: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._up.put(pb.Up(open=opening))
        self._cancel: Callable[[], object] = lambda: None
        self._thread = threading.Thread(
            target=self._read, args=(call,), name="fedloom-span", daemon=True
        )
        self._thread.start()
        part = self._next()
        if part.WhichOneof("part") != "ready":
            raise self._strange(part)
        self.ready: Any = part.ready
        self._credit = int(part.ready.credit)

    def send(self, leg: Any, body: bytes) -> None:
        """Send a leg, once there is credit for it.

        Raises:
            FedloomError: the stream has ended.
        """
        while self._credit < 1:
            part = self._next()
            if part.WhichOneof("part") != "credit":
                raise self._strange(part)
            self._credit += part.credit.legs
        self._credit -= 1
        self._up.put(pb.Up(leg=leg))
        for offset, crc, data in pieces(body):
            self._up.put(pb.Up(chunk=pb.Chunk(offset=offset, crc32=crc, data=data)))

    def answer(self) -> tuple[Any, memoryview]:
        """The next answer and its body, or an error of a leg with no body.

        Raises:
            FedloomError: the stream has ended, or nothing came for too long.
        """
        part = self._next()
        while part.WhichOneof("part") == "credit":
            self._credit += part.credit.legs
            part = self._next()
        if part.WhichOneof("part") == "error":
            return part.error, memoryview(b"")
        if part.WhichOneof("part") != "answer":
            raise self._strange(part)
        answer, body = part.answer, Body(part.answer.size)
        while not body.whole:
            part = self._next()
            if part.WhichOneof("part") != "chunk":
                raise self._strange(part)
            body.add(part.chunk.offset, part.chunk.crc32, part.chunk.data)
        return answer, body.data

    def evict(self, step: int) -> None:
        """No gradient will be asked for a step."""
        self._up.put(pb.Up(evict=pb.Evict(step=step)))

    def sync(self) -> Any:
        """Where the far side stands after all that was sent; a `Synced`.

        Raises:
            FedloomError: the stream has ended.
        """
        self._up.put(pb.Up(sync=pb.Sync()))
        part = self._next()
        while part.WhichOneof("part") == "credit":
            self._credit += part.credit.legs
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
            self._up.put(pb.Up(close=pb.Close()))
            self._up.put(None)
            self._thread.join(_SECONDS)
        self._cancel()
        self._up.put(None)
        self._thread.join(_SECONDS)

    def _parts(self) -> Iterator[Any]:
        while (part := self._up.get()) is not None:
            yield part

    def _begun(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel

    def _read(self, call: Call) -> None:
        try:
            for part in call(self._parts(), self._begun):
                self._down.put(part)
            text = "the far side ended the stream"
            self._down.put(TransferError(text, code="unreachable", retry_after=0.0))
        except FedloomError as error:
            self._down.put(error)
        finally:
            self._up.put(None)

    def _next(self) -> Any:
        try:
            found = self._down.get(timeout=self._patience)
        except queue.Empty:
            text = f"no answer of the far side for {self._patience:g} s"
            raise TransferError(text, code="unreachable", retry_after=0.0) from None
        if isinstance(found, FedloomError):
            self._down.put(found)
            raise found
        return found

    def _strange(self, part: Any) -> TransferError:
        text = f"the far side sent {part.WhichOneof('part')} out of turn"
        return TransferError(text, code="protocol")
