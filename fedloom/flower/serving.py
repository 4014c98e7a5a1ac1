"""An app's ServerApp on a server of ours: ports, TLS and enrolment as for our own jobs."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.flower.app import FlowerApp
from fedloom.flower.calls import AppCalls, RunFacts
from fedloom.flower.folder import AppRun
from fedloom.flower.mailbox import Mailbox
from fedloom.flower.running import run_server_app
from fedloom.results.observe import Observer, Summary
from fedloom.security.authority import Authority
from fedloom.security.tokens import JoinToken
from fedloom.server.counting import Counting
from fedloom.server.database import Database
from fedloom.server.enrolment import EnrolmentCalls
from fedloom.server.listen import Anyone, Certified, bind, new_server, own_names
from fedloom.server.register import Register

__all__ = ["Listening", "serve_app"]

_LINGER = 10.0
_GRACE = 2.0
_HOURS = 24.0 * 30
_TOKEN_SECONDS = 24.0 * 3600


@dataclass(frozen=True)
class Listening:
    """Where an app's server listens.

    Attributes:
        folder: of its state: authority, tokens, clients.
        listen: address to bind.
        address: that clients dial; empty for the one that this machine is reached by.
        port: of the service; 0 for any free one.
        enrol_port: of enrolment.
        insecure: without TLS, on loopback or a network that is trusted.
        nodes: clients that are waited for before the ServerApp starts.
        largest: bytes that a reply may have.
    """

    folder: Path = Path("federation")
    listen: str = "0.0.0.0"
    address: str = ""
    port: int = 8470
    enrol_port: int = 8471
    insecure: bool = False
    nodes: int = 2
    largest: int = 1 << 30


def serve_app(
    app: FlowerApp,
    where: Listening,
    run: AppRun,
    observer: Observer,
    opened: Callable[[str], None],
) -> Summary:
    """Serve until the ServerApp's main function ends.

    Args:
        app: whose.
        where: it listens.
        run: its folder and number.
        observer: told of every round.
        opened: told how a client joins.

    Raises:
        FedloomError: a port is taken, or another server works in the folder.
    """
    app.server_app()  # a mistake in it is told before any port opens
    database = Database.open(where.folder, exclusive=True)
    try:
        mailbox = Mailbox()
        facts = RunFacts(app.name, run.number, dict(app.config), where.largest)
        authority = Authority.open(where.folder / "authority")
        serving = _Serving(where, authority, Register(database), facts)
        return asyncio.run(
            serving.run(mailbox, opened, lambda: run_server_app(app, mailbox, run, observer))
        )
    finally:
        database.close()


@dataclass(frozen=True, eq=False)
class _Serving:
    """Ports around one ServerApp."""

    where: Listening
    authority: Authority
    register: Register
    facts: RunFacts

    async def run(
        self, mailbox: Mailbox, opened: Callable[[str], None], work: Callable[[], Summary]
    ) -> Summary:
        """Open the ports, wait for nodes, run `work` in a thread, say goodbye.

        Whoever interrupts it may start it again: then clients are not told that it is over.
        """
        servers: list[Any] = []
        try:
            opened(await self._listen(mailbox, servers))
            while len(mailbox.nodes()) < self.where.nodes:
                await asyncio.sleep(0.05)
            found, error = await _in_thread(work)
            await _farewell(mailbox)
            if error is not None:
                raise error
            assert found is not None
            return found
        finally:
            await asyncio.gather(*(server.stop(_GRACE) for server in servers))

    async def _listen(self, mailbox: Mailbox, servers: list[Any]) -> str:
        where, authority = self.where, self.authority
        address, names = own_names(where.address)
        keys = None if where.insecure else authority.server_identity(names)
        door = Anyone() if keys is None else Certified(authority.federation, self.register)
        work = new_server()
        servers.append(work)
        work.add_generic_rpc_handlers((AppCalls(door, mailbox, self.facts).handler(),))
        port = bind(work, where.listen, where.port, keys, authority)
        await work.start()
        if keys is None:
            return f"--insecure {address}:{port}"
        enrol = new_server()
        servers.append(enrol)
        calls = EnrolmentCalls(authority, self.register, _HOURS, port, Counting())
        enrol.add_generic_rpc_handlers((calls.handler(),))
        enrol_port = bind(enrol, where.listen, where.enrol_port, keys)
        await enrol.start()
        id, secret = self.register.tokens.create(uses=where.nodes, ttl_seconds=_TOKEN_SECONDS)
        return f"--join {JoinToken(address, enrol_port, id, secret, authority.pin)}"


async def _in_thread(
    work: Callable[[], Summary],
) -> tuple[Summary | None, BaseException | None]:
    """What `work` returns or raises, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Summary | None, BaseException | None]] = loop.create_future()

    def run() -> None:
        try:
            found: tuple[Summary | None, BaseException | None] = work(), None
        except BaseException as error:
            found = None, error
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(_settle, done, found)

    threading.Thread(target=run, name="flower-app", daemon=True).start()
    return await done


def _settle(done: "asyncio.Future[Any]", found: object) -> None:
    if not done.done():
        done.set_result(found)


async def _farewell(mailbox: Mailbox) -> None:
    """Let clients hear that it is over."""
    mailbox.end()
    loop = asyncio.get_running_loop()
    until = loop.time() + _LINGER
    while loop.time() < until and mailbox.unaware:
        await asyncio.sleep(0.05)
