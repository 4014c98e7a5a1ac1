"""The far side of `split_memory_side`, in a process of its own.

Usage: ``split_memory_far.py FOLDER``: prints one JSON line with its port, and serves until its
input ends.
"""

import asyncio
import json
import sys
from pathlib import Path

from fedloom.core.layout import ALL
from fedloom.core.split import session_plan
from fedloom.server.listen import Anyone, bind, new_server
from fedloom.server.split_course import Course
from fedloom.server.split_host import Terms
from fedloom.server.split_room import Room
from fedloom.server.split_service import SplitCalls
from fedloom.server.split_sessions import Sessions
from fedloom.server.stage_host import StageHost
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.stage import Stage
from split_memory_side import NAME, WORK, cut_in, model_in

__all__ = ["host"]


async def host(folder: Path) -> None:
    """Host the far blocks until the input ends."""
    cut, depth = cut_in(folder)
    model = model_in(folder, cut.far(depth), split=True)
    options = StageOptions("v1")
    stage = Stage(model, model.initial(0), ALL, WORK, cut=cut, options=options)
    terms = Terms(session_plan(NAME, 1), cut.first, cut.last, model.backbone.shape.width)
    course = Course()
    calls = SplitCalls(Anyone(), Sessions(StageHost(stage), terms, course), Room(1 << 30))
    server = new_server()
    server.add_generic_rpc_handlers((calls.handler(),))
    port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    course.close()


if __name__ == "__main__":
    asyncio.run(host(Path(sys.argv[1])))
