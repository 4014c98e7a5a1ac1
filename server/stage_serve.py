"""Serve a span of frozen blocks until somebody ends it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from fedloom.backbones.fused import load_fused
from fedloom.security.authority import Authority
from fedloom.server.database import Database
from fedloom.server.frozen_host import FrozenHost
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


def serve_stage(plan: StagePlan, opened: Callable[[str, int, str], None]) -> None:
    """Serve until SIGINT or SIGTERM comes.

    Args:
        plan: what to serve.
        opened: told address, port and the name of what is served: the digest of the weights, by
            which both sides know that they hold the same.

    Raises:
        FedloomError: the model cannot be read or has no such blocks, the port is taken, or no
            federation's state is in the folder.
    """
    backbone = load_fused(plan.backbone, dtype=plan.dtype, device=plan.device)
    host = FrozenHost.of(backbone, plan.first, plan.last)
    terms = Terms(
        backbone.digest,
        plan.first,
        plan.last,
        backbone.shape.width,
        dtype=str(plan.dtype).removeprefix("torch."),
        max_length=backbone.shape.max_positions,
    )
    del backbone
    asyncio.run(_serve(plan, host, terms, opened))


async def _serve(
    plan: StagePlan, host: FrozenHost, terms: Terms, opened: Callable[[str, int, str], None]
) -> None:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    with ExitStack() as ending:
        course = Course()
        ending.callback(course.close)
        sessions, room = Sessions(host, terms, course), Room(plan.memory)
        address, names = own_names("" if plan.listen in ("0.0.0.0", "::") else plan.listen)
        keys = authority = None
        calls = SplitCalls(Anyone(), sessions, room)
        if plan.federation is not None:
            database = Database.open(plan.federation, exclusive=False)
            ending.callback(database.close)
            authority = Authority.open(plan.federation / "authority")
            keys = authority.server_identity(names)
            calls = SplitCalls(Certified(authority.federation, Register(database)), sessions, room)
        server = new_server()
        server.add_generic_rpc_handlers((calls.handler(),))
        port = bind(server, plan.listen, plan.port, keys, authority)
        await server.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        opened(address, port, terms.plan)
        await over.wait()
        await server.stop(_GRACE)
