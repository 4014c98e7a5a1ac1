"""One of our strategies over a made-up cohort, in a process of its own.

Usage: ``strategy_ours.py STRATEGY OPTIONS CLIENTS PARAMETERS``; OPTIONS is JSON. Prints one JSON
line: processor and wall seconds from the first update to the next model (making the updates up is
not counted), the peak memory of the process, and what it held with its imports alone.
"""

import json
import sys
import time
from typing import Any, cast

import numpy as np

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import Component, create
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.base import Strategy
from fedloom.strategies.held_cohort import HeldCohort
from strategy_cohort import PageCache, floor_mib, layers, made_up, peak_mib


def main() -> None:
    """Measure, and print."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    clients, parameters = int(sys.argv[3]), int(sys.argv[4])
    strategy = cast(Strategy, create("strategies", Component(name, options)))
    floor = floor_mib()
    sizes = layers(parameters)
    layout = Layout(tuple(TensorSpec(f"t{i}", (size,)) for i, size in enumerate(sizes)))
    state = strategy.init(Params(layout, np.zeros(layout.size, dtype=np.float32)))
    total: Any = None
    pages: PageCache | None = None
    cpu, wall = 0.0, 0.0
    for client in range(clients):
        delta = Delta(layout, made_up(client, parameters))
        if isinstance(total, HeldCohort):
            pages = pages or PageCache(4 * parameters * (clients - 1))
            pages.give_back(4 * parameters)
        update = ClientUpdate(f"client-{client:05}", 1, 10 + client % 7, delta=delta)
        cpu, wall = cpu - time.process_time(), wall - time.perf_counter()
        total = strategy.accumulate(total, update)
        cpu, wall = cpu + time.process_time(), wall + time.perf_counter()
    held = cpu
    cpu, wall = cpu - time.process_time(), wall - time.perf_counter()
    state, _ = strategy.apply(state, total)
    cpu, wall = cpu + time.process_time(), wall + time.perf_counter()
    norm = float(np.linalg.norm(state.params.vector.astype(np.float64)))
    found = {
        "cpu": cpu,
        "after": cpu - held,
        "wall": wall,
        "memory": peak_mib(),
        "floor": floor,
        "norm": norm,
        "rate": 1 / cpu,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
