"""Many clients of one far side, one after the other or all at once: ``split_crowd.py ASKED``.

Clients compute nothing: they go through the legs of their steps with tensors that are there. In
``sequential`` they take turns; in ``concat`` every pass is the batches of all. Both servers
run all the time, and are asked in turn. Beside it the same without streams: the stage's own calls,
one client's batch after the other or all as one. One line of JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from fedloom.client.span import RemoteFar
from fedloom.tuning.gang import Gang
from live.split_legs import Legs
from live.split_rate import server_of
from live.split_setup import Asked, Sides

__all__ = ["measure"]


def measure(asked: Asked) -> dict[str, float]:
    """Steps of clients a second, one after the other and all at once."""
    names = [f"c{i}" for i in range(asked.clients)]
    with ExitStack() as ending:
        modes = {m: replace(asked, mode=m) for m in ("sequential", "concat")}
        ports = {mode: ending.enter_context(server_of(one)) for mode, one in modes.items()}
        turn, gang = (Sides.load(modes[mode], asked.device) for mode in ports)
        legs = Legs(gang)
        fars = [ending.enter_context(gang.far(ports["concat"], name)) for name in names]
        threads = ending.enter_context(ThreadPoolExecutor(asked.clients))
        turns, joint = [], []
        for number in range(asked.repeats + 1):  # the first to warm up
            first = 1 + number * asked.steps
            turns.append(_turns(turn, ports["sequential"], names, legs))
            joint.append(_joint(threads, fars, legs, range(first, first + asked.steps)))
        threads.shutdown()
        one, every = (_computed(gang, legs, own) for own in (names[:1], names))
    many = asked.clients * asked.steps
    ratios = [a / b for a, b in zip(turns[1:], joint[1:], strict=True)]
    return {
        "sequential_per_second": many / statistics.median(turns[1:]),
        "concat_per_second": many / statistics.median(joint[1:]),
        "ratio": statistics.median(ratios),
        "compute_ratio": asked.clients * one / every,
    }


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


def _turns(sides: Sides, port: int, names: Sequence[str], legs: Legs) -> float:
    """Seconds for all of the clients' steps, client by client; connecting is left out."""
    seconds = 0.0
    for name in names:
        with sides.far(port, name) as far:
            began = time.perf_counter()
            _steps(far, legs, range(1, sides.asked.steps + 1))
            seconds += time.perf_counter() - began
    return seconds


def _joint(
    threads: ThreadPoolExecutor, fars: Sequence[RemoteFar], legs: Legs, steps: range
) -> float:
    """Seconds for as many steps of all clients at once."""
    began = time.perf_counter()
    for done in [threads.submit(_steps, far, legs, steps) for far in fars]:
        done.result()
    return time.perf_counter() - began


def _steps(far: RemoteFar, legs: Legs, steps: range) -> None:
    for step in steps:
        legs.step(far, step)


if __name__ == "__main__":
    print(json.dumps(measure(Asked.from_json(sys.argv[1]))))
