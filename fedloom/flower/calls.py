"""The calls by which Flower's messages travel: bytes in frames, beside our own contract.

``Next``: the client's wait in seconds (ASCII); then ``message``, the run's facts and a message's
bytes in frames of at most 256 KiB, or the single frame ``wait``, or ``done``. ``Alive``: nothing;
the answer is ``alive``. ``Reply``: frames of a reply's bytes; the answer is ``taken``. A message's
bytes are Flower's own (``flwr.proto.Message``).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedloom.core.errors import TransferError
from fedloom.flower.hosting import EXPIRED
from fedloom.flower.mailbox import Mailbox
from fedloom.flower.wire import frames, packed, unpacked
from fedloom.server.counting import Counting
from fedloom.server.listen import byte_calls
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.service import Doorkeeper

__all__ = ["DONE", "MESSAGE", "SERVICE", "AppCalls", "RunFacts"]

SERVICE = "fedloom.v1.FlowerApp"
MESSAGE, WAIT, DONE, TAKEN, ALIVE = b"message", b"wait", b"done", b"taken", b"alive"
_LONGEST = 60.0


@dataclass(frozen=True)
class RunFacts:
    """What a client has to know of the run that a message belongs to.

    Attributes:
        app: name of the app.
        run: number of the run.
        config: ``run_config``.
        largest: bytes that a reply may have.
    """

    app: str
    run: int
    config: Mapping[str, Any]
    largest: int

    def written(self) -> bytes:
        """As JSON."""
        return json.dumps(vars(self)).encode()

    @staticmethod
    def read(data: bytes) -> "RunFacts":
        """From JSON.

        Raises:
            TransferError: it is none.
        """
        try:
            found = json.loads(data)
            own = str(found["app"]), int(found["run"]), dict(found["config"]), int(found["largest"])
        except (ValueError, KeyError, TypeError) as error:
            text = f"the run's facts cannot be read: {error}"
            raise TransferError(text, code="protocol") from None
        return RunFacts(*own)


class AppCalls:
    """The service, for enrolled clients.

    Args:
        doorkeeper: says who is calling.
        mailbox: of messages.
        facts: of the run.
    """

    def __init__(self, doorkeeper: Doorkeeper, mailbox: Mailbox, facts: RunFacts) -> None:
        self._doorkeeper, self._mailbox, self._facts = doorkeeper, mailbox, facts
        self._counting = Counting()

    def handler(self) -> Any:
        """The calls by name, for a server."""
        calls = {"Next": self._next, "Alive": self._alive, "Reply": self._reply}
        return byte_calls(SERVICE, calls)

    async def _next(self, parts: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            client = self._doorkeeper(context)
            seconds = _seconds(await anext(parts, b""))
            message = await self._mailbox.next(client, seconds)
            self._doorkeeper(context)  # it may have been revoked while it waited
            data = b"" if message is None else await asyncio.to_thread(self._packed, message)
            if not data:
                yield DONE if self._mailbox.over else WAIT
                return
            yield MESSAGE
            yield self._facts.written()
            for frame in frames(data):
                yield frame
        except TROUBLE as error:
            await turn_away(context, error, self._counting)

    async def _alive(self, parts: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            self._mailbox.seen(self._doorkeeper(context))
            yield ALIVE
        except TROUBLE as error:
            await turn_away(context, error, self._counting)

    async def _reply(self, parts: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            client, data = self._doorkeeper(context), bytearray()
            async for part in parts:
                data += part
                if len(data) > self._facts.largest:
                    text = f"a reply of more than {self._facts.largest} bytes"
                    raise TransferError(text, code="too-large")
            reply = await asyncio.to_thread(unpacked, bytes(data))
            self._mailbox.take(client, reply)
            yield TAKEN
        except TROUBLE as error:
            await turn_away(context, error, self._counting)

    def _packed(self, message: Any) -> bytes:
        """A message's bytes; none, where it cannot be written, which is its answer."""
        try:
            return packed(message)
        except Exception as error:  # what an app puts into a message may be anything
            text = f"the message cannot be written: {type(error).__name__}: {error}"
            self._mailbox.fail(message, EXPIRED, text)
            return b""


def _seconds(request: bytes) -> float:
    try:
        return min(max(float(request.decode()), 0.0), _LONGEST)
    except ValueError:
        raise TransferError("the wait is no number of seconds", code="protocol") from None
