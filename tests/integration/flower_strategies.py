"""Options of every strategy that Flower ships, and strategies of a user's own."""

from collections.abc import Mapping
from typing import Any

from fedloom.core.component import Component

FEW: Mapping[str, Any] = {"min_available_nodes": 1, "min_train_nodes": 1}
_NOISE = {"strategy": {"name": "flwr:FedAvg", **FEW}, "num_sampled_clients": 5}
_DP = {**_NOISE, "noise_multiplier": 0.01}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "FedAvg": FEW,
    "FedAvgM": {**FEW, "server_momentum": 0.5},
    "FedAdagrad": FEW,
    "FedAdam": FEW,
    "FedYogi": FEW,
    "FedMedian": FEW,
    "FedProx": {**FEW, "proximal_mu": 0.1},
    "FedTrimmedAvg": FEW,
    "Krum": FEW,
    "MultiKrum": FEW,
    "Bulyan": FEW,
    "QFedAvg": {**FEW, "client_learning_rate": 0.1, "q": 0.2},
    "DifferentialPrivacyServerSideFixedClipping": {**_DP, "clipping_norm": 1.0},
    "DifferentialPrivacyServerSideAdaptiveClipping": _DP,
    "DifferentialPrivacyClientSideFixedClipping": {**_DP, "clipping_norm": 1.0},
    "DifferentialPrivacyClientSideAdaptiveClipping": _DP,
}
TREES = ("FedXgbBagging", "FedXgbCyclic")


def component(name: str) -> Component:
    return Component(f"flwr:{name}", OPTIONS[name])


OWN = '''
import random

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg


class Slowed(FedAvg):
    """Half of the way each round, with things to remember of every kind."""

    def __init__(self, factor=0.5, **options):
        super().__init__(**options)
        self.factor = factor
        self.draw = random.Random(3)
        self.seen, self.before, self.told = {}, None, []

    def configure_train(self, server_round, arrays, config, grid):
        self.before = arrays
        config["lr"] = 0.1 / server_round
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for reply in replies:
            node = reply.metadata.src_node_id
            self.seen[node] = self.seen.get(node, 0) + 1
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.factor *= self.draw.choice([0.9, 1.1])
        before, after = self.before.to_numpy_ndarrays(), arrays.to_numpy_ndarrays()
        mixed = [b + self.factor * (a - b) for b, a in zip(before, after)]
        return ArrayRecord(dict(zip(arrays, ArrayRecord(mixed).values()))), metrics

    def aggregate_evaluate(self, server_round, replies):
        found = super().aggregate_evaluate(server_round, replies)
        self.told.append(found["loss"])
        if len(self.told) > 1 and self.told[-1] > self.told[-2]:
            self.factor /= 2
        return found
'''
