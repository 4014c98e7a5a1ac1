"""A client process that hosts an app's ClientApp for a server of ours."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.proto.message_pb2 import Context as WireContext
from google.protobuf.message import DecodeError

from fedloom.client.backoff import Backoff
from fedloom.client.connection import Connection
from fedloom.client.enrol import default_root, find_folder, identity_for
from fedloom.client.logs import log
from fedloom.client.refusals import is_passing
from fedloom.client.stopping import Stop, Stopped
from fedloom.core.durable import sync
from fedloom.core.errors import ConfigError, RunError, TransferError
from fedloom.flower.app import FlowerApp
from fedloom.flower.calls import DONE, MESSAGE, SERVICE, frames, packed, unpacked
from fedloom.flower.hosting import Node
from fedloom.security.private import make_folder
from fedloom.security.tokens import JoinToken
from fedloom.strategies.flower.records import node_of

__all__ = ["Joining", "join_app"]

_WAIT = b"20"


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

    Raises:
        IdentityError: the device is not let in.
        ConfigError: nothing says where the server is, or the app cannot be used.
    """
    client_app, stop = app.client_app(), Stop()
    with stop.signals():
        connection, folder = _connected(joining, stop)
        keeping = _Context(folder / "context.bin")
        config = dict(joining.node_config)
        node = Node(client_app, node_of(connection.name), config, app.config)
        keeping.restore(node)
        log.info("%s works for the app %s, in %s", connection.name, app.name, folder)
        try:
            _work(connection, node, keeping, stop)
        except Stopped:
            log.info("stopped")
        finally:
            stop.set()
            connection.close()


def _work(connection: Connection, node: Node, keeping: "_Context", stop: Stop) -> None:
    backoff = Backoff()
    reply: bytes | None = None
    while not stop.is_set():
        try:
            if reply is not None:
                _reply(connection, reply)
                reply = None
            tag, data = _next(connection)
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
            with stop.interruptible():
                message = unpacked(data)
                answer = node.answer(message)
            if answer.has_error():
                log.error("%s: %s", message.metadata.message_type, answer.error.reason)
            keeping.keep(node.context)
            reply = packed(answer)


def _next(connection: Connection) -> tuple[bytes, bytes]:
    parts = connection.channel().exchange(f"/{SERVICE}/Next", [_WAIT])
    tag = next(parts, b"")
    return tag, b"".join(parts)


def _reply(connection: Connection, reply: bytes) -> None:
    """Hand in a reply; one whose message is answered or gone is dropped."""
    try:
        list(connection.channel().exchange(f"/{SERVICE}/Reply", frames(reply)))
    except TransferError as error:
        if error.code not in ("no-such-task", "too-large"):
            raise
        log.warning("%s", error)


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


class _Context:
    """The node's context on the disk, so that what a ClientApp keeps outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def restore(self, node: Node) -> None:
        """Give a node the state that was kept.

        Raises:
            RunError: the file is damaged.
        """
        if not self._path.exists():
            return
        try:
            found = context_from_proto(WireContext.FromString(self._path.read_bytes()))
        except (DecodeError, ValueError) as error:
            raise RunError(f"{self._path}: not a context of Flower's: {error}") from None
        node.context.state = found.state

    def keep(self, context: Context) -> None:
        """Keep the state, all of it or what was there before."""
        draft = self._path.with_suffix(".tmp")
        draft.write_bytes(context_to_proto(context).SerializeToString())
        sync(draft)
        draft.replace(self._path)
