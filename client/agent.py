"""What a device does all day: ask for work, do it, send the result, until told to stop."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from enum import Enum

from fedloom.client.backoff import Backoff
from fedloom.client.channel import Channel
from fedloom.client.connection import Connection
from fedloom.client.contents import Source
from fedloom.client.limits import may_not_work
from fedloom.client.logs import Rarely, log
from fedloom.client.outbox import Finished, Outbox
from fedloom.client.probe import device
from fedloom.client.refusals import is_passing
from fedloom.client.settings import ClientSettings
from fedloom.client.stopping import Stop, Stopped
from fedloom.client.workshop import Workshop
from fedloom.core.contract import PROTOCOL
from fedloom.core.errors import TransferError
from fedloom.protos import federation_pb2 as wire

__all__ = ["Agent", "Ending"]

_LOOK = 60.0
"""Seconds between two looks at whether the owner lets the device work."""

_IDLE = 10.0
"""Seconds between two check-ins of a device that has nothing to train on."""
_UNFIT = "data that fit the job (they are read again when the file changes)"

_FATAL = ("protocol",)
_REFUSED = 300.0
"""Seconds to wait after a refusal that says of no time when trying again helps."""


class Ending(Enum):
    """Why an agent ended."""

    DONE = "done"
    STOPPED = "stopped"


class Agent:
    """One device at work.

    Args:
        connection: to the server.
        workshop: where tasks become results.
        outbox: where results wait for their receipts.
        settings: the owner's.
        stop: ends it.
        backoff: between tries.
    """

    def __init__(
        self,
        connection: Connection,
        workshop: Workshop,
        outbox: Outbox,
        settings: ClientSettings,
        *,
        stop: Stop,
        backoff: Backoff | None = None,
    ) -> None:
        self._connection, self._workshop, self._outbox = connection, workshop, outbox
        self._settings, self._stop = settings, stop
        self._backoff = backoff or Backoff()
        self._mishaps = Backoff()
        self._trouble = Rarely()
        self._waiting = ""  # the reason told last

    def run(self) -> Ending:
        """Work until the federation is done or the device is stopped.

        Raises:
            IdentityError: the server does not know this device any more.
            TransferError: the server is of another version.
        """
        while not self._stop.is_set():
            try:
                if self._turn():
                    return Ending.DONE
            except Stopped:
                break
            except TransferError as error:
                self._endure(error)
            except OSError as error:  # this disk: full, or gone
                text = f"{error.filename or 'disk'}: {error.strerror or error}"
                self._endure(TransferError(text, code="disk-full"))
        log.info("stopped; %s", self._left())
        return Ending.STOPPED

    def _turn(self) -> bool:
        """One turn: what is finished goes out, then a check-in and what it brings."""
        reason = may_not_work(self._settings, datetime.now())
        if reason:
            self._tell_waiting(reason)
            self._stop.wait(_LOOK)
            return False
        channel = self._connection.channel()
        for finished in self._outbox.pending():
            self._send(channel, finished)
        self._workshop.refresh()
        told = self._workshop.num_examples
        reply = self._check_in(channel)
        if reply.HasField("job"):
            self._workshop.prepare(reply.job, self._source(channel))
        what = reply.WhichOneof("next")
        if what == "done":
            log.info("the federation is finished: %s", reply.done.reason)
            return True
        if what == "task":
            self._work(channel, reply.task)
        elif self._workshop.num_examples == told and not self._workshop.failure[1]:
            self._tell_waiting(reply.wait.reason if told else _UNFIT)
            self._stop.wait(max(reply.wait.seconds, 0.05 if told else _IDLE))
        return False

    def _check_in(self, channel: Channel) -> wire.CheckInReply:
        from fedloom import __version__

        failed, failure = self._workshop.failure
        known = self._workshop.num_examples > 0
        request = wire.CheckInRequest(
            protocol=PROTOCOL,
            version=__version__,
            num_examples=self._workshop.num_examples,
            wait_seconds=self._settings.wait if known else 0.0,
            device=device(self._settings, self._workshop.tier),
            failed=failed,
            failure=failure,
            holds=self._workshop.holds,
            resync=self._workshop.resync,
        )
        reply = channel.check_in(request)
        self._workshop.failure = ("", "")
        self._well()
        return reply

    def _work(self, channel: Channel, task: wire.Task) -> None:
        self._waiting = ""
        made = self._workshop.work(task, self._source(channel))
        if made is None:  # the server is told at once; then, not to fail as fast as it can give
            if self._mishaps.failures:
                self._stop.wait(self._mishaps.next())
            else:
                self._mishaps.next()
            return
        self._mishaps.reset()
        finished, payload = made
        self._outbox.put(finished, payload)
        self._workshop.done()
        self._send(channel, finished)

    def _send(self, channel: Channel, finished: Finished) -> None:
        """Send a result; one that the server will never take is dropped."""
        try:
            seq = self._outbox.send(finished, channel, self._backoff.reset)
        except TransferError as error:
            if error.code == "digest" and self._outbox.damaged(finished):
                log.error("the result of round %d was damaged on this disk", finished.round)
            elif is_passing(error) or error.code in ("abandoned", *_FATAL):
                raise
            else:
                text = "the server does not take the result of round %d: %s"
                log.warning(text, finished.round, error, extra=_facts(finished, code=error.code))
            self._outbox.drop(finished.ticket)
            return
        self._well()
        text = "round %d: sent %s bytes, receipt %d"
        log.info(text, finished.round, f"{finished.size:,}", seq, extra=_facts(finished, seq=seq))

    def _source(self, channel: Channel) -> Source:
        def chunks(sha256: str, offset: int) -> Iterator[wire.Chunk]:
            with closing(channel.download(sha256, offset)) as found:
                for chunk in found:
                    self._backoff.reset()  # it moves
                    yield chunk

        return chunks

    def _well(self) -> None:
        self._backoff.reset()
        seconds = self._trouble.over()
        if seconds is not None:
            log.info("the server answers again, after %s", _duration(seconds))

    def _endure(self, error: TransferError) -> None:
        """Wait before the next turn.

        Raises:
            TransferError: waiting does not help.
        """
        if self._stop.is_set():
            return
        if error.code in _FATAL:
            raise error
        passing = is_passing(error)
        seconds = self._backoff.next(error.retry_after if passing else _REFUSED)
        if self._trouble.is_due():
            text = "%s; trying again in %s, and for as long as it takes"
            log.warning(text, error, _duration(seconds), extra={"facts": {"code": error.code}})
        self._stop.wait(seconds)

    def _tell_waiting(self, reason: str) -> None:
        if reason and reason != self._waiting:
            log.info("waiting: %s", reason)
        self._waiting = reason

    def _left(self) -> str:
        waiting = len(self._outbox.pending())
        results = "a result waits" if waiting == 1 else f"{waiting} results wait"
        return f"{results} to be sent at the next start" if waiting else "nothing is left to send"


def _facts(finished: Finished, **more: object) -> dict[str, object]:
    return {"facts": {"round": finished.round, "ticket": finished.ticket, **more}}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
