"""Serve a span of frozen blocks until somebody ends it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from fedloom.security.authority import Authority
from fedloom.server.database import Database
from fedloom.server.describing import Describing
from fedloom.server.hosting import Hosted, blocks_per_second, hosted
from fedloom.server.listen import Anyone, Certified, bind, new_server, own_names
from fedloom.server.register import Register
from fedloom.server.split_course import Course
from fedloom.server.split_host import Terms
from fedloom.server.split_room import Room
from fedloom.server.split_service import SplitCalls
from fedloom.server.split_sessions import Sessions

__all__ = ["StagePlan", "serve_stage"]

_GRACE = 1.0


@dataclass(frozen=True)
class StagePlan:
    """What a stage serves, and where.

    Attributes:
        backbone: folder of the model.
        first: the first block.
        last: the block after the last one.
        listen: address to listen on.
        port: 0 for any free one.
        federation: state folder of the server whose clients are let in; None for whoever comes,
            without TLS.
        dtype: that is computed in.
        device: where.
        memory: bytes that bodies of all sessions may take.
        bits: of a weight: 8, or 0 for those of `dtype`.
    """

    backbone: Path
    first: int
    last: int
    listen: str
    port: int
    federation: Path | None
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    memory: int = 1 << 30
    bits: int = 0


def serve_stage(plan: StagePlan, opened: Callable[[str, int, Hosted], None]) -> None:
    """Serve until SIGINT or SIGTERM comes.

    Args:
        plan: what to serve.
        opened: told address, port, and what is served.

    Raises:
        FedloomError: the model cannot be read or has no such blocks, the port is taken, or no
            federation's state is in the folder.
    """
    found = hosted(
        plan.backbone,
        plan.first,
        plan.last,
        dtype=plan.dtype,
        device=plan.device,
        bits=plan.bits,
    )
    asyncio.run(_serve(plan, found, opened))


def _terms(plan: StagePlan, found: Hosted) -> Terms:
    return Terms(
        found.weights,
        found.first,
        found.last,
        found.host.backbone.shape.width,
        dtype=str(plan.dtype).removeprefix("torch."),
        max_length=found.longest,
        within=True,
    )


async def _serve(
    plan: StagePlan, found: Hosted, opened: Callable[[str, int, Hosted], None]
) -> None:
    throughput = blocks_per_second(found)
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    with ExitStack() as ending:
        course = Course()
        ending.callback(course.close)
        sessions = Sessions(found.host, _terms(plan, found), course, part=found.part)
        address, names = own_names("" if plan.listen in ("0.0.0.0", "::") else plan.listen)
        keys = authority = None
        doorkeeper: Anyone | Certified = Anyone()
        if plan.federation is not None:
            database = Database.open(plan.federation, exclusive=False)
            ending.callback(database.close)
            authority = Authority.open(plan.federation / "authority")
            keys = authority.server_identity(names)
            doorkeeper = Certified(authority.federation, Register(database))
        calls = SplitCalls(doorkeeper, sessions, Room(plan.memory))
        describing = Describing(doorkeeper, found, throughput, sessions, calls.counting)
        server = new_server()
        server.add_generic_rpc_handlers((calls.handler(), describing.handler()))
        port = bind(server, plan.listen, plan.port, keys, authority)
        await server.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        opened(address, port, found)
        await over.wait()
        await server.stop(_GRACE)
