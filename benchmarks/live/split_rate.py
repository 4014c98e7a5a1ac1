"""Training over a split model, and the same in one process: ``split_rate.py ASKED``; one JSON line.

Both go through the ordinary learner, with as many threads. Blocks of steps are timed in turn.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedloom.tuning.base import Session
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.split_session import SplitSession
from live.processes import facts_of, started
from live.split_setup import TRAIN, Asked, Sides, far_of

__all__ = ["measure", "server_of"]

SERVER = Path(__file__).with_name("split_server.py")


@contextmanager
def server_of(asked: Asked) -> Iterator[tuple[int, int]]:
    """A server process of the far side; its port, and the number of the process."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started((SERVER, asked.to_json(), folder)) as process,
    ):
        yield int(facts_of(process)["port"]), process.pid


def measure(asked: Asked) -> dict[str, float]:
    """Seconds of a step, live and in one process."""
    with server_of(asked) as (port, _):
        sides = Sides.load(asked)
        examples = sides.examples()
        whole = sides.model.session(sides.params, TRAIN, examples)
        alone, live = [], []
        for _ in range(asked.repeats + 1):  # the first to warm up
            alone.append(_seconds(whole, sides))
            with far_of(port, sides.plan()) as far:
                session = SplitSession(
                    sides.model, sides.params, TRAIN, examples, cut=sides.cut, fars=[far]
                )
                live.append(_seconds(session, sides))
    one, other = (1000 * statistics.median(each[1:]) for each in (alone, live))
    ratios = [a / b for a, b in zip(alone[1:], live[1:], strict=True)]
    return {"alone_ms": one, "live_ms": other, "ratio": statistics.median(ratios)}


def _seconds(session: Session, sides: Sides) -> float:
    """Of a step."""
    rows = np.arange(sides.asked.batch * sides.asked.steps)
    client = Assignment("device", rows, round=1, seed=0)
    began = time.perf_counter()
    Backprop().train(session, sides.params, sides.work, [client])
    return (time.perf_counter() - began) / sides.asked.steps


if __name__ == "__main__":
    print(json.dumps(measure(Asked.from_json(sys.argv[1]))))
