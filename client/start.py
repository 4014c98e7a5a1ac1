"""`fedloom client`: from the settings to a device at work, and from its end to an exit status."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedloom.client.agent import Agent
from fedloom.client.backoff import Backoff
from fedloom.client.connection import Connection
from fedloom.client.enrol import default_root, find_folder, identity_for
from fedloom.client.far_side import far_side
from fedloom.client.logs import Rarely, log
from fedloom.client.outbox import Outbox
from fedloom.client.refusals import is_passing
from fedloom.client.settings import ClientSettings
from fedloom.client.stopping import Stop, Stopped
from fedloom.client.workshop import Workshop
from fedloom.core.errors import ConfigError, FedloomError, RunError, TransferError
from fedloom.security.identity import Identity
from fedloom.security.names import check_name
from fedloom.security.private import make_folder
from fedloom.security.tokens import JoinToken

__all__ = ["FINISHED", "REFUSED", "take_part"]

FINISHED, REFUSED = 0, 2
"""Exit statuses: done or stopped; and something that a person has to put right."""


def take_part(settings: ClientSettings, *, root: Path | None = None) -> int:
    """Join where needed, and work until the federation is finished or a signal comes.

    Runs in the main thread, whose signals it takes.

    Args:
        settings: the owner's.
        root: where federations are kept; the home's ``.fedloom`` where none is given.

    Returns:
        The exit status: 0, or 2 where a person has to put something right, which the log says.
    """
    stop = Stop()
    with stop.signals():
        try:
            _work(settings, root or default_root(), stop)
        except Stopped:
            log.info("stopped")
        except FedloomError as error:
            log.error("%s", error)
            return REFUSED
    return FINISHED


def _work(settings: ClientSettings, root: Path, stop: Stop) -> None:
    if settings.insecure:
        folder, name, (host, port) = _without_identity(settings, root)
        _check_data(settings)
        with _alone(folder):
            log.warning("no TLS: everything can be read and changed on its way")
            _run(settings, folder, "", Connection(host, port, stop=stop, name=name), stop)
        return
    token = JoinToken.parse(settings.join) if settings.join else None
    folder = find_folder(settings.directory, token, root=root)
    if token is None:
        Identity.load(folder)  # a folder that is none is not made
    _check_data(settings)
    with _alone(folder):  # before it enrols: that would replace another's identity
        identity = _moved(_enrolled(folder, token, settings.name, root, stop), settings.server)
        connection = Connection(identity.host, identity.port, stop=stop, identity=identity)
        _run(settings, identity.folder, identity.federation, connection, stop)


def _check_data(settings: ClientSettings) -> None:
    if not settings.data:
        text = "no data to train on: --data FILE (CSV, JSONL, Parquet, NPZ, or module:callable)"
        raise ConfigError(f"{text}, or data = ... in the file of --config")


def _run(
    settings: ClientSettings, folder: Path, federation: str, connection: Connection, stop: Stop
) -> None:
    try:
        far = partial(far_side, connection, stop)
        workshop = Workshop(folder, settings, federation=federation, stop=stop, far=far)
        where = f"{connection.host}:{connection.port}"
        log.info("%s works for %s, in %s", connection.name, where, folder)
        Agent(connection, workshop, Outbox(folder / "outbox"), settings, stop=stop).run()
    finally:
        stop.set()
        connection.close()


def _moved(identity: Identity, server: str) -> Identity:
    """The identity, with the server where the owner says it is now."""
    if not server:
        return identity
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, str(identity.port)
    if not host or not port.isdecimal():
        raise ConfigError(f"server = {server!r}: expected HOST or HOST:PORT")
    return replace(identity, host=host.removeprefix("[").removesuffix("]"), port=int(port))


def _without_identity(settings: ClientSettings, root: Path) -> tuple[Path, str, tuple[str, int]]:
    """Folder, name, and the server's host and port."""
    host, _, port = settings.insecure.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"insecure = {settings.insecure!r}: expected HOST:PORT")
    name = check_name(settings.name or os.uname().nodename)
    host = host.removeprefix("[").removesuffix("]")
    folder = root / f"insecure-{host}-{port}".replace(":", "-") / name.replace("/", "-")
    if settings.directory:
        folder = Path(settings.directory).expanduser()
    return folder, name, (host, int(port))


def _enrolled(folder: Path, token: JoinToken | None, name: str, root: Path, stop: Stop) -> Identity:
    """The identity, as soon as the server can be reached.

    Raises:
        Stopped: before that.
        IdentityError: the device cannot be let in.
    """
    backoff, trouble = Backoff(), Rarely()
    while not stop.is_set():
        try:
            return identity_for(folder, token, name=name, root=root)
        except TransferError as error:
            if not is_passing(error):
                raise
            seconds = backoff.next(error.retry_after)
            if trouble.is_due():
                log.warning(
                    "%s; trying again in %.0f s, and for as long as it takes", error, seconds
                )
            stop.wait(seconds)
    raise Stopped


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against another client that would work in it.

    Raises:
        RunError: there is one.
    """
    make_folder(folder)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            text = f"{folder}: another client (pid {file.read().strip() or '?'}) works in it"
            raise RunError(f"{text}; a second one needs a --directory of its own") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
