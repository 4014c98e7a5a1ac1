"""Serve a plan: ports open, rounds on, until all are done or somebody ends it."""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.results.observe import Observer, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.server.enrolment import EnrolmentCalls
from fedloom.server.failpoints import reach
from fedloom.server.federation import Federation
from fedloom.server.health import add_health
from fedloom.server.listen import Anyone, Certified, bind, new_server, own_names
from fedloom.server.metrics import serve_metrics
from fedloom.server.plan import Plan
from fedloom.server.service import FederationCalls

__all__ = ["Open", "serve"]

GRACE = 5.0
"""Seconds that calls under way have when the server ends."""
LINGER = 10.0
"""Seconds after the last round in which clients are told that they may go."""
_FLUSH = 1.0

log = logging.getLogger("fedloom.server")


@dataclass(frozen=True)
class Open:
    """Where a server can be reached.

    Attributes:
        address: name or address that clients dial.
        port: where enrolled clients work.
        enrol_port: where new ones enrol; 0 without TLS.
        federation: open for whoever makes tokens.
    """

    address: str
    port: int
    enrol_port: int
    federation: Federation


def serve(
    plan: Plan,
    directory: Callable[[], RunDirectory],
    observer: Observer,
    *,
    opened: Callable[[Open], None],
    folder_made: Callable[[Path], object] = lambda folder: None,
) -> Summary:
    """Serve until the last round is done, or SIGINT or SIGTERM comes.

    Args:
        plan: the job.
        directory: makes the folder of the results, once nothing else can fail.
        observer: told of every round.
        opened: told where the server can be reached.
        folder_made: told that the state folder is there, and this server's alone.

    Raises:
        FedloomError: a port is taken, another server works in the folder, or a round raised.
    """
    federation = Federation.open(plan, observer)
    try:
        folder_made(federation.folder)
        return asyncio.run(_serve(federation, directory, observer, opened))
    finally:
        federation.close()


async def _serve(
    federation: Federation,
    directory: Callable[[], RunDirectory],
    observer: Observer,
    opened: Callable[[Open], None],
) -> Summary:
    config, loop = federation.plan.job.server, asyncio.get_running_loop()
    federation.intake.loop = loop
    if federation.hosting is not None:
        federation.hosting.loop = loop
    servers: list[Any] = []
    watching = ExitStack()
    try:
        where = await _listen(federation, servers)
        reach("ports-open")
        watching.callback(serve_metrics(config.metrics_port, federation))
        federation.live.reachable(where.address, where.port, where.enrol_port)
        opened(where)
        ended = federation.start(directory(), observer)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, federation.stop)
        summary = await _until(ended, federation)
        if not summary.interrupted:
            await _farewell(federation)
        return summary
    finally:
        watching.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        stopping = asyncio.gather(*(server.stop(GRACE) for server in servers))
        await asyncio.sleep(0)  # no call is let in any more, and those that wait need not
        federation.board.release()
        await stopping


async def _listen(federation: Federation, servers: list[Any]) -> Open:
    """Open the ports; what is opened is in `servers` even where the next one fails."""
    config, authority = federation.plan.job.server, federation.authority
    address, names = own_names(config.address)
    keys = None if config.insecure else authority.server_identity(names)
    door = Anyone() if keys is None else Certified(authority.federation, federation.register)
    calls = FederationCalls(
        door,
        federation.board,
        federation.intake,
        federation.register,
        federation.contents,
        federation.job,
        None if keys is None else federation.renew,
        federation.counting,
        [tier.name for tier in federation.plan.job.tiers],
    )
    work = new_server()
    servers.append(work)
    work.add_generic_rpc_handlers((calls.handler(),))
    if federation.hosting is not None:
        from fedloom.server.split_service import SplitCalls  # needs torch

        hosting = federation.hosting
        split = SplitCalls(door, hosting, hosting.room, federation.counting)
        work.add_generic_rpc_handlers((split.handler(),))
    await add_health(work)
    port = bind(work, config.listen, config.port, keys, authority)
    await work.start()
    if keys is None:
        return Open(address, port, 0, federation)
    enrol = new_server()
    servers.append(enrol)
    enrolment = EnrolmentCalls(
        authority, federation.register, config.certificate_hours, port, federation.counting
    )
    enrol.add_generic_rpc_handlers((enrolment.handler(),))
    enrol_port = bind(enrol, config.listen, config.enrol_port, keys)
    await enrol.start()
    return Open(address, port, enrol_port, federation)


async def _until(ended: Future[Summary], federation: Federation) -> Summary:
    """Wait for the rounds; what clients said is written down every now and then."""
    waiting = asyncio.wrap_future(ended)
    while not waiting.done():
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), _FLUSH)
        federation.tidy()
    return waiting.result()


async def _farewell(federation: Federation) -> None:
    """Let clients that wait, or come back, hear that it is over, unless somebody is impatient."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LINGER
    while loop.time() < until and federation.board.unaware(LINGER) and not federation.told:
        await asyncio.sleep(0.1)
