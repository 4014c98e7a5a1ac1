"""Flower's strategy of the same rule over the same made-up cohort, in a process of its own.

Usage: ``strategy_flower.py CLASS OPTIONS CLIENTS PARAMETERS`` in an environment with flwr. What is
timed is ``aggregate_train`` of all replies, which Flower holds in memory; making them is not.
"""

import json
import logging
import sys
import time

import flwr.serverapp.strategy as strategies
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from strategy_cohort import floor_mib, guard, layers, made_up, peak_mib


def reply(client: int, sizes: list[int]) -> Message:
    """What Flower's server gets of one client."""
    parts = np.split(made_up(client, sum(sizes)), np.cumsum(sizes)[:-1])
    arrays = ArrayRecord({f"t{i}": Array(part) for i, part in enumerate(parts)})
    metrics = MetricRecord({"num-examples": 10 + client % 7})
    asked = Message(content=RecordDict(), dst_node_id=client + 1, message_type="train")
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked)


def main() -> None:
    """Measure, and print."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    options, clients = json.loads(sys.argv[2]), int(sys.argv[3])
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1  # as a ServerApp has
    strategy = getattr(strategies, sys.argv[1])(**options)
    guard()
    floor = floor_mib()
    sizes = layers(int(sys.argv[4]))
    replies = [reply(client, sizes) for client in range(clients)]
    cpu, wall = time.process_time(), time.perf_counter()
    arrays, _ = strategy.aggregate_train(1, replies)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if arrays is None:
        raise SystemExit(f"{sys.argv[1]} gave nothing")
    whole = np.concatenate([array.ravel() for array in arrays.to_numpy_ndarrays()])
    norm = float(np.linalg.norm(whole.astype(np.float64)))
    found = {
        "cpu": cpu,
        "wall": wall,
        "memory": peak_mib(),
        "floor": floor,
        "norm": norm,
        "rate": 1 / cpu,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
