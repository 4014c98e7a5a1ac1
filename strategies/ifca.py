"""Several models at once: each client trains the one that suits it.

IFCA: Ghosh, Chung, Yin and Ramchandran, "An Efficient Framework for Clustered Federated Learning",
NeurIPS 2020, https://arxiv.org/abs/2006.04088, with model averaging: a model moves
along the mean change of the clients that chose it. The learner of the same name chooses.

All of them travel to every client of a round. The first is the job's model; the others begin a
little off it, for models that are alike stay so. The global model that is judged and saved is their
mean; each client is judged by the one that it chose last (``personal_accuracy``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.seeds import stream
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.plan import Constant

__all__ = ["Ifca"]

MEAN = WeightedMean()


@dataclass(frozen=True)
class Ifca:
    """Averaging within clusters of clients that choose theirs.

    Args:
        clusters: how many models.
        spread: the others begin uniformly within so much of the first, in every number.
        lr: server learning rate.

    Raises:
        ConfigError: an argument is out of range.
    """

    clusters: int = 2
    spread: float = 0.02
    lr: float = 1.0

    correction = "ifca"

    def __post_init__(self) -> None:
        require(2 <= self.clusters <= 64, "clusters", self.clusters, "2 to 64")
        require(0 < self.spread < float("inf"), "spread", self.spread, "above 0 and finite")
        require(0 < self.lr < float("inf"), "lr", self.lr, "above 0 and finite")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        size = params.layout.size
        draws = [stream(0, "ifca", client=str(j)).uniform(size) for j in range(1, self.clusters)]
        off = np.stack([np.zeros(size), *(self.spread * (2 * draw - 1) for draw in draws)])
        models = (params.vector + off).astype(np.float32)
        return State(params, slots={"clusters": models})

    def briefing(self, state: State) -> Briefing:
        """The models, float32 ``[clusters, P]``."""
        return {"clusters": state.slots["clusters"]}

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """What the job asks of each client."""
        return Constant().plan(state, cohort)

    def accumulate(
        self, total: dict[int, FixedPointSum] | None, update: ClientUpdate
    ) -> dict[int, FixedPointSum]:
        """The sum of the model that the client chose, with one more update.

        Raises:
            UpdateRefusedError: it does not say which, or as `WeightedMean.add`.
        """
        said, sums = update.metrics.get("cluster", -1.0), total or {}
        if said not in range(self.clusters):
            text = f"metrics.cluster = {said:g}: 0 to {self.clusters - 1}"
            raise UpdateRefusedError(f"client {update.client!r}: {text}")
        chosen = int(said)
        sums[chosen] = MEAN.add(sums.get(chosen), update)
        return sums

    def apply(self, state: State, total: dict[int, FixedPointSum] | None) -> tuple[State, Metrics]:
        """Each model along its clients' mean; ``cluster_J`` is its share of the examples."""
        after = replace(state, version=state.version + 1)
        if not total:
            return after, {}
        models: NDArray[np.float32] = state.slots["clusters"].astype(np.float32)
        weight = sum(sums.weight for sums in total.values())
        metrics = dict.fromkeys((f"cluster_{j}" for j in range(self.clusters)), 0.0)
        for j, sums in sorted(total.items()):
            models[j] += np.float32(self.lr) * MEAN.mean(state.params, sums).vector
            metrics[f"cluster_{j}"] = sums.weight / max(weight, 1)
        mean = Params(state.params.layout, models.mean(axis=0, dtype=np.float64).astype(np.float32))
        return replace(after, params=mean, slots={**state.slots, "clusters": models}), metrics
