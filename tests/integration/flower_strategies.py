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
REFUSED: Mapping[str, str] = {
    "FedXgbBagging": "aggregates trees; a fedloom job trains tensors",
    "FedXgbCyclic": "aggregates trees; a fedloom job trains tensors",
}
OLD = "flwr.server.strategy"
_FEW_OLD = {"min_available_clients": 1, "min_fit_clients": 1, "min_evaluate_clients": 1}
_INSIDE_OLD = {"strategy": {"name": f"flwr:{OLD}:FedAvg", **_FEW_OLD}}
_DP_OLD = {**_INSIDE_OLD, "num_sampled_clients": 5, "noise_multiplier": 0.01}
OPTIONS_OLD: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("FedAvg", "FedOpt", "FedAdam", "FedYogi", "FedAdagrad", "Krum"), _FEW_OLD),
    **dict.fromkeys(("FedMedian", "FedTrimmedAvg", "FaultTolerantFedAvg"), _FEW_OLD),
    "FedAvgM": {**_FEW_OLD, "server_momentum": 0.5},
    "FedProx": {**_FEW_OLD, "proximal_mu": 0.1},
    "Bulyan": {**_FEW_OLD, "to_keep": 0},
    "DifferentialPrivacyServerSideFixedClipping": {**_DP_OLD, "clipping_norm": 1.0},
    "DifferentialPrivacyServerSideAdaptiveClipping": _DP_OLD,
}
_CLIPS = "its clients clip; 'flwr:DifferentialPrivacyClientSideFixedClipping' does it here"
REFUSED_OLD: Mapping[str, tuple[Mapping[str, Any], str]] = {
    **{name: ({}, why) for name, why in REFUSED.items()},
    "FedXgbNnAvg": ({}, "aggregates trees"),
    "FedAvgAndroid": ({}, "reads the bytes of Android's clients"),
    "QFedAvg": ({}, "needs an evaluate_fn"),
    "DPFedAvgFixed": ({**_INSIDE_OLD, "num_sampled_clients": 5, "clip_norm": 1.0}, _CLIPS),
    "DPFedAvgAdaptive": ({**_INSIDE_OLD, "num_sampled_clients": 5}, _CLIPS),
    "DifferentialPrivacyClientSideFixedClipping": ({**_DP_OLD, "clipping_norm": 1.0}, _CLIPS),
    "DifferentialPrivacyClientSideAdaptiveClipping": (_DP_OLD, _CLIPS),
}


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


OWN_OLD = '''
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAvg


def weighted(metrics):
    total = sum(count for count, _ in metrics)
    return {"mean": sum(count * one["loss"] for count, one in metrics) / total}


class Slowed(FedAvg):
    """Some of the way each round, less of it when the evaluation grew."""

    def __init__(self, factor=0.5, **options):
        super().__init__(
            evaluate_fn=self.judge,
            on_fit_config_fn=lambda number: {"lr": 0.1 / number},
            fit_metrics_aggregation_fn=weighted,
            evaluate_metrics_aggregation_fn=weighted,
            **options,
        )
        self.factor, self.before, self.judged = factor, None, []

    def judge(self, server_round, weights, config):
        self.judged.append(float(sum(abs(one).sum() for one in weights)))
        return self.judged[-1], {"tensors": len(weights)}

    def configure_fit(self, server_round, parameters, client_manager):
        self.before = parameters
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        made, metrics = super().aggregate_fit(server_round, results, failures)
        if len(self.judged) > 1 and self.judged[-1] > self.judged[-2]:
            self.factor /= 2
        pairs = zip(parameters_to_ndarrays(self.before), parameters_to_ndarrays(made))
        return ndarrays_to_parameters([b + self.factor * (a - b) for b, a in pairs]), metrics
'''
