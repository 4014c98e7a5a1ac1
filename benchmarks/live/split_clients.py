"""Clients that compute nothing: ``split_clients.py ASKED WIDTH PLAN NAME PORT ...``.

PLAN is a JSON list: name, first and last block. For each NAME a session with the server at PORT is
open all the time, and each line of the input, a first step and how many, is done by all at once and
answered by a line.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from fedloom.client.span import RemoteFar, SpanPlan
from live.split_legs import Legs
from live.split_setup import Asked, far_of


def _steps(far: RemoteFar, legs: Legs, steps: range) -> None:
    for step in steps:
        legs.step(far, step)


def _run(asked: Asked, width: int, plan: SpanPlan, names: Sequence[str], port: int) -> None:
    legs = Legs(asked, width)
    with ExitStack() as ending:
        threads = ending.enter_context(ThreadPoolExecutor(len(names)))
        fars = [ending.enter_context(far_of(port, plan, name)) for name in names]
        print("{}", flush=True)
        for line in sys.stdin:
            first, count = map(int, line.split())
            steps = range(first, first + count)
            for done in [threads.submit(_steps, far, legs, steps) for far in fars]:
                done.result()
            print("{}", flush=True)


if __name__ == "__main__":
    what, wide, named, to, *who = sys.argv[1:]
    name, begin, end = json.loads(named)
    said = Asked.from_json(what)
    terms = SpanPlan(name, begin, end, far_labels=said.labels == "far")
    _run(said, int(wide), terms, who, int(to))
