"""Many clients of one far side, one after the other or all at once: ``split_crowd.py ASKED``.

Clients compute nothing: they go through the legs of their steps with tensors that are there, and
are in processes beside. In ``sequential`` they take turns; in ``concat`` every pass is the batches
of all. Both servers run all the time, and are asked in turn. Beside it the same without streams:
the stage's own calls, one client's batch or those of all at once. One line of JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedloom.tuning.gang import Gang
from live.processes import Process, cpu_seconds, facts_of, started
from live.split_legs import Legs
from live.split_rate import server_of
from live.split_setup import Asked, Sides, far_of

__all__ = ["measure"]

PROGRAM = Path(__file__).with_name("split_clients.py")
PROCESSES = 4


def measure(asked: Asked) -> dict[str, float]:
    """Steps of clients a second, one after the other and all at once, and what the server did."""
    names = [f"c{i}" for i in range(asked.clients)]
    sides = Sides.load(replace(asked, mode="concat"), asked.device)
    legs = Legs(asked, sides.width)
    with (
        server_of(replace(asked, mode="sequential")) as (port, process),
        server_of(replace(asked, mode="concat")) as (other, beside),
        _crowd(sides, names, other) as crowd,
    ):
        found = []
        for turn in range(asked.repeats + 1):  # the first to warm up
            alone = _spent(process, lambda: _turns(sides, port, names, legs))
            first = 1 + turn * asked.steps
            found.append((*alone, *_spent(beside, partial(_joint, crowd, asked, first))))
    many = asked.clients * asked.steps
    one, one_cpu, all_at_once, all_cpu = (
        statistics.median(column) / many for column in zip(*found[1:], strict=True)
    )
    ratios = [row[0] / row[2] for row in found[1:]]
    single, gang = (_computed(sides, legs, own) for own in (names[:1], names))
    return {
        "sequential_per_second": 1 / one,
        "concat_per_second": 1 / all_at_once,
        "ratio": statistics.median(ratios),
        "sequential_cpu": 1000 * one_cpu,
        "concat_cpu": 1000 * all_cpu,
        "compute_ratio": asked.clients * single / gang,
    }


@contextmanager
def _crowd(sides: Sides, names: Sequence[str], port: int) -> Iterator[list[Process]]:
    """Processes of clients whose sessions are open."""
    plan = sides.plan()
    said = json.dumps([plan.plan, plan.first, plan.last])
    with ExitStack() as ending:
        found = []
        for i in range(min(PROCESSES, len(names))):
            given = (sides.asked.to_json(), str(sides.width), said, str(port), *names[i::PROCESSES])
            found.append(ending.enter_context(started((PROGRAM, *given))))
        for process in found:
            facts_of(process)
        yield found


def _spent(pid: int, call: Callable[[], float]) -> tuple[float, float]:
    """Seconds that a call says it took, and processor seconds that a process took meanwhile."""
    busy = cpu_seconds(pid)
    seconds = call()
    return seconds, cpu_seconds(pid) - busy


def _turns(sides: Sides, port: int, names: Sequence[str], legs: Legs) -> float:
    """Seconds for all of the clients' steps, client by client; connecting is left out."""
    seconds = 0.0
    for name in names:
        with far_of(port, sides.plan(), name) as far:
            began = time.perf_counter()
            for step in range(1, sides.asked.steps + 1):
                legs.step(far, step)
            seconds += time.perf_counter() - began
    return seconds


def _joint(crowd: Sequence[Process], asked: Asked, first: int) -> float:
    """Seconds for as many steps of all clients at once."""
    began = time.perf_counter()
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write(f"{first} {asked.steps}\n")
        process.stdin.flush()
    for process in crowd:
        facts_of(process)
    return time.perf_counter() - began


def _computed(sides: Sides, legs: Legs, names: Sequence[str]) -> float:
    """Seconds that a step of these clients takes the stage alone, as one batch."""
    gang, taken = Gang(sides.stage()), []
    batch = legs.batch()
    for step in range(1, 2 + sides.asked.repeats):
        began = time.perf_counter()
        if batch.places is None:
            gang.forward(step, dict.fromkeys(names, batch))
            found = list(gang.backward(step, dict.fromkeys(names, legs.grad)).values())
        else:
            done = gang.losses(step, dict.fromkeys(names, batch)).values()
            found = [grad for _, grad in done]
        found[-1].cpu()  # a GPU is waited for
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    print(json.dumps(measure(Asked.from_json(sys.argv[1]))))
