"""``numpy.add`` of a made-up cohort into a running total: what a mean costs at least.

Usage: ``strategy_numpy.py DTYPE CLIENTS PARAMETERS``; DTYPE is the total's: float64 and int64 have
the bytes of our total, float32 half of them. Updates are float32, of an int64 total int64.
"""

import json
import sys
import time

import numpy as np

from strategy_cohort import floor_mib, made_up, peak_mib


def main() -> None:
    """Measure, and print."""
    dtype, clients, parameters = np.dtype(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    floor = floor_mib()
    total, cpu, wall = np.zeros(parameters, dtype=dtype), 0.0, 0.0
    for client in range(clients):
        update = made_up(client, parameters)
        own = update.astype(np.int64) if dtype.kind == "i" else update
        cpu, wall = cpu - time.process_time(), wall - time.perf_counter()
        np.add(total, own, out=total)
        cpu, wall = cpu + time.process_time(), wall + time.perf_counter()
    found = {
        "cpu": cpu,
        "wall": wall,
        "memory": peak_mib(),
        "floor": floor,
        "norm": 0.0,
        "rate": 1 / cpu,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
