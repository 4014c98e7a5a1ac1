"""Far blocks as a live round hosts them: ``split_server.py ASKED FOLDER``; a line with the port.

FOLDER holds the journal. The same process and port echo bytes, for what gRPC takes by itself, and
say how long the host has computed.
"""

import asyncio
import json
import signal
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from fedloom.server.gang_host import GangHost
from fedloom.server.listen import Anyone, bind, new_server
from fedloom.server.split_course import Course
from fedloom.server.split_host import Host
from fedloom.server.split_journal import Journal
from fedloom.server.split_room import Room
from fedloom.server.split_service import SplitCalls
from fedloom.server.split_sessions import Sessions
from fedloom.server.stage_host import StageHost
from live.split_setup import Asked, Sides
from live.split_timed import Timed

__all__ = ["ECHO", "SPENT"]

ECHO = "/fedloom.benchmarks.Echo/Session"
SPENT = "/fedloom.benchmarks.Echo/Spent"
PATIENCE = 10.0


async def _echo(parts: AsyncIterator[bytes], context: Any) -> None:
    """Send back what came, once a message that is one byte long says that it is whole."""
    kept = []
    async for part in parts:
        kept.append(part)
        if len(part) == 1:
            for each in kept:
                await context.write(each)
            kept = []


def _beside(host: Timed) -> grpc.GenericRpcHandler:
    """What is called beside the service that is measured."""

    async def spent(request: bytes, context: Any) -> bytes:
        return struct.pack("<d", host.seconds)

    calls = {
        "Session": grpc.stream_stream_rpc_method_handler(_echo),
        "Spent": grpc.unary_unary_rpc_method_handler(spent),
    }
    return grpc.method_handlers_generic_handler("fedloom.benchmarks.Echo", calls)


def _host(sides: Sides) -> Host:
    stage = sides.stage()
    if sides.asked.mode == "concat":
        return GangHost(stage, patience=PATIENCE)
    return StageHost(stage)


async def _serve(sides: Sides, folder: Path) -> None:
    threads = sides.asked.clients if sides.asked.mode == "concat" else 1
    course = Course(threads)
    journal = Journal(folder / "split.sqlite")
    host = Timed(_host(sides), sides.asked.computes)
    sessions = Sessions(host, sides.terms, course, journal)
    server = new_server()
    calls = SplitCalls(Anyone(), sessions, Room(1 << 30))
    server.add_generic_rpc_handlers((calls.handler(), _beside(host)))
    port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)
    course.close()
    journal.close()


if __name__ == "__main__":
    asked = Asked.from_json(sys.argv[1])
    asyncio.run(_serve(Sides.load(asked, asked.device), Path(sys.argv[2])))
