"""One layer at a time in a model of few layers: FedBFPT.

Wang, Li, Chen and Shou, "FedBFPT: An Efficient Federated Learning Framework for BERT Further
Pre-training", IJCAI 2023. Clients hold a shallow model: the layers up to the one that trains, and
above it a few drawn from the rest of the global model (progressive learning with sampled deep
layers). They train and send that layer and the head; the layer moves deeper by halving what is left
of the rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedloom.core.errors import ConfigError, require
from fedloom.core.seeds import stream
from fedloom.core.types import ClientId, ClientTask, Cohort, State
from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["OneLayer", "drawn", "fedbfpt", "halving"]


def halving(rounds: int) -> tuple[int, ...]:
    """The layer that trains in each round: half of what is left for each next one.

    >>> halving(5), halving(8)
    ((0, 0, 0, 1, 2), (0, 0, 0, 0, 1, 1, 2, 3))
    """
    layers: list[int] = []
    layer, left = 0, rounds
    for number in range(rounds):
        if number == rounds - left // 2:
            layer, left = layer + 1, rounds - number
        layers.append(layer)
    return tuple(layers)


def drawn(
    layer: int, *, layers: int, depth: int, key: tuple[int, int, ClientId]
) -> tuple[int, ...]:
    """The layers of a client's model: all up to the one that trains, and deep ones above it.

    Deep layers are drawn with replacement from those above, and run in their order.

    Args:
        layer: the one that trains.
        layers: of the client's model.
        depth: of the global model.
        key: seed, round and client.
    """
    seed, number, client = key
    own, above = tuple(range(layer + 1)), depth - layer - 1
    count = max(layers - len(own), 0) if above else 0
    places = stream(seed, "deep layers", round=number, client=client).uniform(count)
    return (*own, *sorted(layer + 1 + int(place * above) for place in places))


@dataclass(frozen=True)
class OneLayer:
    """The layer of the round and the head train, in a model of few layers.

    Attributes:
        layers: of a client's model.
        depth: layers of the backbone; 0 for as many as have tensors that may train.
        progressive: whether the layer moves deeper; else layer 0 trains throughout.
    """

    layers: int = 6
    depth: int = 0
    progressive: bool = True

    def __post_init__(self) -> None:
        require(self.layers >= 1, "layers", self.layers, "1 or more")
        require(self.depth >= 0, "depth", self.depth, "0 (as many as may train) or more")

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client: the round's layer and the head, and the client's own layers.

        Raises:
            ConfigError: the schedule comes to a layer that has no tensors that may train.
        """
        tasks, layout = Constant().plan(state, cohort), state.params.layout
        own = dict.fromkeys(s.block for s in layout if s.block.startswith("layer."))
        if not own:  # a head alone has no layers to choose from
            return tasks
        self._check(cohort.rounds, tuple(own))
        layer = self._layer(state.version, cohort.rounds)
        numbers = [int(block.removeprefix("layer.")) for block in own]
        head = ("head",) if any("head" in spec.tags for spec in layout) else ()
        selectors = replace(cohort.selectors, train=(f"layer.{layer}", *head))
        return {
            name: replace(
                task,
                selectors=selectors,
                blocks=drawn(
                    layer,
                    layers=self.layers,
                    depth=self.depth or 1 + max(numbers),
                    key=(cohort.seed, cohort.round, name),
                ),
            )
            for name, task in tasks.items()
        }

    def _check(self, rounds: int, own: tuple[str, ...]) -> None:
        """Find a layer of a late round that cannot train before the first."""
        wanted = [f"layer.{layer}" for layer in halving(rounds)] if self.progressive else []
        missing = [block for block in ("layer.0", *wanted) if block not in own]
        if missing:
            text = f"{rounds} rounds come to {missing[0]}; what may train: {', '.join(own)}"
            raise ConfigError(f"strategy fedbfpt: {text}")

    def _layer(self, done: int, rounds: int) -> int:
        """The layer that trains after so many of the stage's rounds."""
        schedule = halving(rounds) or (0,)
        return schedule[min(done, len(schedule) - 1)] if self.progressive else 0


def fedbfpt(layers: int = 6, depth: int = 0, progressive: bool = True, lr: float = 1.0) -> Composed:
    """Train one layer at a time, ever deeper, in models of few layers (FedBFPT).

    Args:
        layers: of a client's model; the paper's have 6 of 12.
        depth: layers of the backbone; 0 where all of them may train (`adapter.layers` is empty).
        progressive: let the layer move deeper as the stage goes on; else layer 0 trains throughout.
        lr: server learning rate.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(OneLayer(layers, depth, progressive), WeightedMean("skip"), Sgd(lr))
