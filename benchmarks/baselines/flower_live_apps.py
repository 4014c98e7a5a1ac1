"""The two apps of a Flower federation: its own FedAvg, and a client that works or just answers.

A SuperLink runs the one, and each SuperNode the other in a new process for every message, as
Flower's deployment does.
"""

import json
import time
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

__all__ = ["client", "server"]

_JOIN_SECONDS = 60.0
_DELTA = np.float32(1e-4)


@dataclass
class _Times:
    """When each round ended, on lines of a file."""

    path: str
    replies: list[int] = field(default_factory=list)

    def ended(self, server_round: int, arrays: ArrayRecord) -> None:
        """Note a round: the strategy calls this before the first and after each round."""
        line = {"round": server_round, "time": time.time(), "replies": self.replies[-1:]}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def count(self, replies: list[RecordDict], weighted_by: str) -> MetricRecord:
        """Note how many answered."""
        self.replies.append(len(replies))
        return MetricRecord({"replies": len(replies)})


server = ServerApp()
client = ClientApp()


@server.main()  # type: ignore[untyped-decorator]
def _serve(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes, work = int(config["nodes"]), str(config["work"])
    _await_nodes(grid, nodes)
    times = _Times(str(config["times"]))
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=nodes,
        min_available_nodes=nodes,
        train_metrics_aggr_fn=times.count,
    )
    start = _start(work, int(config["size"]))
    strategy.start(
        grid,
        ArrayRecord({"weights": Array(start)}),
        num_rounds=int(config["rounds"]),
        train_config=ConfigRecord({"work": work}),
        evaluate_fn=times.ended,
    )


@client.train()  # type: ignore[untyped-decorator]
def _train(message: Message, context: Context) -> Message:
    weights = message.content.array_records["arrays"]["weights"].numpy()
    work = str(message.content.config_records["config"]["work"])
    number = int(context.node_config["partition-id"])
    after = _trained(work, number, weights) if work else weights + _DELTA
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(after)}),
            "metrics": MetricRecord({"num-examples": 16}),
        }
    )
    return Message(content, reply_to=message)


def _start(work: str, size: int) -> NDArray[np.float32]:
    if not work:
        return np.zeros(size, dtype=np.float32)
    from baselines.model import build_model, flatten, trainable
    from baselines.work import WORKS

    model = build_model(WORKS[work], "float32", "sdpa")
    return flatten(trainable(model)).numpy()


def _trained(work: str, number: int, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """A local epoch; the model is built anew, since every message has a process of its own."""
    import torch

    from baselines.model import ResidentModel
    from baselines.work import WORKS

    torch.set_num_threads(1)
    model = ResidentModel(WORKS[work], "float32", "sdpa")
    model.weights.copy_(torch.from_numpy(weights))
    model.local_epoch(number)
    return model.weights.numpy()


def _await_nodes(grid: Grid, nodes: int) -> None:
    deadline = time.monotonic() + _JOIN_SECONDS
    while len(list(grid.get_node_ids())) < nodes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {nodes} nodes after {_JOIN_SECONDS:g} s")
        time.sleep(0.1)
