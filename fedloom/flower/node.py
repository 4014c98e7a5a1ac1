"""A client process that hosts an app's ClientApp for a server of ours."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.client.backoff import Backoff
from fedloom.client.connection import Connection
from fedloom.client.enrol import default_root, find_folder, identity_for
from fedloom.client.logs import log
from fedloom.client.refusals import is_passing
from fedloom.client.stopping import Stop, Stopped
from fedloom.core.durable import write
from fedloom.core.errors import ConfigError, FedloomError, TransferError
from fedloom.flower.app import FlowerApp
from fedloom.flower.calls import DONE, MESSAGE, SERVICE, RunFacts
from fedloom.flower.hosting import Node
from fedloom.flower.wire import frames, unpacked
from fedloom.security.private import make_folder
from fedloom.security.tokens import JoinToken
from fedloom.strategies.flower.records import node_of

__all__ = ["Joining", "join_app"]

_WAIT = b"20"
_SIGN = 15.0


@dataclass(frozen=True)
class Joining:
    """How a client reaches its server.

    Attributes:
        join: token; not needed again once it has joined.
        insecure: ``HOST:PORT`` of a server without TLS, instead.
        name: proposed when it joins.
        directory: of key, certificate and context; empty for a folder of ``~/.fedloom``.
        node_config: what the ClientApp finds in ``context.node_config``.
    """

    join: str
    insecure: str
    name: str
    directory: str
    node_config: Mapping[str, Any]


def join_app(app: FlowerApp, joining: Joining) -> None:
    """Answer messages until the server says that it is over, or a signal comes.

    A server that cannot be reached is tried again, for as long as it takes: it may be started
    again, and its run go on.

    Raises:
        IdentityError: the device is not let in.
        ConfigError: nothing says where the server is, or the app cannot be used.
    """
    client_app, stop = app.client_app(), Stop()
    with stop.signals():
        connection, folder = _connected(joining, stop)
        log.info("%s works for the app %s, in %s", connection.name, app.name, folder)
        desk = _Desk(app, client_app, connection.name, joining.node_config, folder / "context.bin")
        try:
            _work(connection, desk, stop)
        except Stopped:
            log.info("stopped")
        finally:
            stop.set()
            connection.close()


class _Desk:
    """Answers messages of one run after the other; the context of the last one is on the disk."""

    def __init__(
        self, app: FlowerApp, client_app: Any, name: str, config: Mapping[str, Any], path: Path
    ) -> None:
        self._app, self._client_app, self._name = app, client_app, name
        self._config, self._path = config, path
        self._node: Node | None = None

    def answer(self, facts: RunFacts, message: Any) -> bytes:
        """The bytes of a reply.

        Raises:
            ConfigError: the server runs another app.
        """
        if facts.app != self._app.name:
            text = f"the server runs {facts.app!r}, and this folder is {self._app.name!r}"
            raise ConfigError(f"{self._app.folder}: {text}")
        if self._node is None or self._node.context.run_id != facts.run:
            config = dict(self._config)
            number = node_of(self._name)
            self._node = Node(self._client_app, number, config, facts.config, run=facts.run)
            if self._path.exists():
                self._node.restore(self._path.read_bytes(), self._path)
        answer, data = self._node.replied(message, facts.largest)
        if answer.has_error():
            log.error("%s: %s", message.metadata.message_type, answer.error.reason)
        self._keep(self._node.kept())
        return data

    def _keep(self, data: bytes) -> None:
        """Keep the context, all of it or what was there before."""
        draft = self._path.with_suffix(".tmp")
        write(draft, data)
        draft.replace(self._path)


def _work(connection: Connection, desk: _Desk, stop: Stop) -> None:
    backoff = Backoff()
    reply: bytes | None = None
    while not stop.is_set():
        try:
            if reply is not None:
                _reply(connection, reply)
                reply = None
            tag, facts, data = _next(connection)
            backoff.reset()
        except TransferError as error:
            if not is_passing(error):
                raise
            seconds = backoff.next(error.retry_after)
            log.warning("%s; trying again in %.1f s", error, seconds)
            stop.wait(seconds)
            continue
        if tag == DONE:
            log.info("the app is finished")
            return
        if tag == MESSAGE:
            with stop.interruptible(), _signs(connection):
                reply = desk.answer(RunFacts.read(facts), unpacked(data))


def _next(connection: Connection) -> tuple[bytes, bytes, bytes]:
    parts = connection.channel().exchange(f"/{SERVICE}/Next", [_WAIT])
    tag, facts = next(parts, b""), next(parts, b"")
    return tag, facts, b"".join(parts)


def _reply(connection: Connection, reply: bytes) -> None:
    """Hand in a reply; one whose message is answered or gone is dropped."""
    try:
        list(connection.channel().exchange(f"/{SERVICE}/Reply", frames(reply)))
    except TransferError as error:
        if error.code not in ("no-such-task", "too-large"):
            raise
        log.warning("%s", error)


@contextmanager
def _signs(connection: Connection) -> Iterator[None]:
    """Tell the server, while the app is at work, that this client is there."""
    over, channel = threading.Event(), connection.channel()

    def tell() -> None:
        while not over.wait(_SIGN):
            with suppress(FedloomError):
                list(channel.exchange(f"/{SERVICE}/Alive", []))

    threading.Thread(target=tell, name="flower-alive", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _connected(joining: Joining, stop: Stop) -> tuple[Connection, Path]:
    root = default_root()
    if joining.insecure:
        host, _, port = joining.insecure.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"insecure = {joining.insecure!r}: expected HOST:PORT")
        name = joining.name or os.uname().nodename
        folder = Path(joining.directory or root / f"insecure-{host}-{port}" / name).expanduser()
        make_folder(folder)
        return Connection(host, int(port), stop=stop, name=name), folder
    token = JoinToken.parse(joining.join) if joining.join else None
    folder = find_folder(joining.directory, token, root=root)
    identity = identity_for(folder, token, name=joining.name, root=root)
    connection = Connection(identity.host, identity.port, stop=stop, identity=identity)
    return connection, identity.folder
