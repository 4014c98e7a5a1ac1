"""The driver of the Flower baseline: its own FedAvg and simulator, on Ray."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from numpy.typing import NDArray

from baselines.flower_client import app as client_app
from baselines.job import Job, Outcome, UnequalWorkError, report
from baselines.model import build_model, flatten, peak_rss_mib, trainable

_JOIN_SECONDS = 60.0


@dataclass
class _Rounds:
    """What the strategy's hooks see of each round."""

    started: list[float] = field(default_factory=list)
    """Times at the start of each round, and at the end of the last."""

    weights: list[NDArray[np.float32]] = field(default_factory=list)
    """Global weights `[P]` before the first round and after it."""

    steps: int = 0
    actors: set[int] = field(default_factory=set)

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> None:
        """Note the time: the strategy calls this before the first and after each round."""
        if server_round <= 1:
            self.weights.append(arrays["weights"].numpy())
        self.started.append(time.perf_counter())

    def count(self, replies: list[RecordDict], weighted_by: str) -> MetricRecord:
        """Sum the steps that the replies of a round report."""
        for reply in replies:
            metrics = cast(Mapping[str, int], reply.metric_records["metrics"])
            self.steps += metrics["steps"]
            self.actors.add(metrics["process"])
        return MetricRecord({"replies": len(replies)})


def main(job: Job) -> None:
    """Run all rounds in Flower's simulator and report."""
    rounds = _Rounds()
    start = flatten(trainable(build_model(job.what, job.dtype, job.attention))).numpy()
    run_simulation(
        server_app=_server_app(job, rounds, start),
        client_app=client_app,
        num_supernodes=job.clients,
        backend_config={
            "init_args": {
                "num_cpus": job.processes,
                "include_dashboard": False,
                "log_to_driver": False,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if len(rounds.actors) != job.processes:
        raise UnequalWorkError(f"actors: {len(rounds.actors)}, expected {job.processes}")
    seconds = tuple(np.diff(rounds.started).tolist())
    update = rounds.weights[1] - start
    report(job, Outcome(seconds, rounds.steps, update, peak_rss_mib(), _versions()))


def _server_app(job: Job, rounds: _Rounds, start: NDArray[np.float32]) -> ServerApp:
    def run(grid: Grid, context: Context) -> None:
        _await_nodes(grid, job.clients)
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=job.clients,
            min_available_nodes=job.clients,
            train_metrics_aggr_fn=rounds.count,
        )
        strategy.start(
            grid,
            ArrayRecord({"weights": Array(start)}),
            num_rounds=job.rounds,
            train_config=ConfigRecord({"job": job.to_json()}),
            evaluate_fn=rounds.evaluate,
        )

    app = ServerApp()
    app.main()(run)
    return app


def _await_nodes(grid: Grid, nodes: int) -> None:
    """Wait until all nodes have joined: FedAvg sizes its first cohort by those already there.

    Raises:
        TimeoutError: They have not joined after a minute.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    while len(list(grid.get_node_ids())) < nodes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {nodes} nodes after {_JOIN_SECONDS:g} s")
        time.sleep(0.1)


def _versions() -> dict[str, str]:
    names = ("flwr", "ray", "torch", "transformers", "peft", "numpy")
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main(Job.from_json(sys.argv[1]))
