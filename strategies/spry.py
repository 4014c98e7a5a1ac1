"""Trainable units split among the clients of a round: SPRY.

Panchal, Parikh, Choudhary, Zhang, Brun and Guan, "Thinking Forward: Memory-Efficient Federated
Finetuning of Language Models", NeurIPS 2024, https://arxiv.org/abs/2405.15551, algorithm 1. Each
client trains a few units by forward gradients in few dimensions; the server takes for each unit the
mean of its owners, and steps with FedYogi.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Selector
from fedloom.core.seeds import stream
from fedloom.core.types import ClientId, ClientTask, Cohort, State
from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.base import ServerOptimizer
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Sgd, Yogi
from fedloom.strategies.plan import Constant

__all__ = ["Split", "dealt", "spry", "units_of"]


@dataclass(frozen=True)
class Split:
    """Every unit of what trains goes to a client; with more clients than units, to several.

    A client of a kind of device that trains its own part of the tensors keeps that part.
    """

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort."""
        tasks = Constant().plan(state, cohort)
        layout = state.params.layout
        units = units_of(layout.select(cohort.selectors.train))
        wanted = cohort.selectors.train
        able = [name for name, task in tasks.items() if task.selectors.train == wanted]
        order = stream(cohort.seed, "units", round=cohort.round).permutation(len(able))
        names, split = [able[int(i)] for i in order], dict(tasks)
        for name, own in zip(names, dealt(len(units), len(names)), strict=True):
            task = tasks[name]
            train = _selector(layout, [units[unit] for unit in own])
            split[name] = replace(task, selectors=replace(task.selectors, train=train))
        return split


def units_of(layout: Layout) -> list[Layout]:
    """The tensors that belong together, unit by unit: A and B of a LoRA module, a head's own."""
    found: dict[str, list[str]] = {}
    for name in layout.names:
        module = name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]
        found.setdefault(module or name, []).append(name)
    specs = {spec.name: spec for spec in layout}
    return [Layout(tuple(specs[name] for name in names)) for names in found.values()]


def dealt(units: int, clients: int) -> list[list[int]]:
    """Which units each client trains: every unit has an owner, and every client a unit.

    >>> dealt(3, 2), dealt(2, 3)
    ([[0, 2], [1]], [[0], [1], [0]])
    """
    hands: list[list[int]] = [[] for _ in range(clients)]
    for turn in range(max(units, clients) if clients else 0):
        hands[turn % clients].append(turn % units)
    return hands


def _selector(layout: Layout, units: Sequence[Layout]) -> Selector:
    """Patterns for units; all of a module's tensors in one where nothing else answers to it."""
    patterns: list[str] = []
    for unit in units:
        first = unit.names[0]
        glob = (
            f"{first.partition('.lora_')[0] if '.lora_' in first else first.rpartition('.')[0]}.*"
        )
        hits = {spec.name for spec in layout if spec.matches(glob)}
        patterns += [glob] if hits == set(unit.names) else unit.names
    return tuple(patterns)


def spry(
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    tau: float = 1e-3,
    optimizer: str = "yogi",
) -> Composed:
    """Split what trains among the clients of a round; step with FedYogi (SPRY).

    Args:
        lr: server learning rate.
        betas: decay of the first and second moments.
        tau: degree of adaptivity, and the start of the second moment's root.
        optimizer: ``yogi``, or ``sgd`` for the mean itself.

    Raises:
        ConfigError: an argument is out of range.
    """
    require(optimizer in ("yogi", "sgd"), "optimizer", optimizer, "yogi or sgd")
    stepping: ServerOptimizer = Yogi(lr, betas, tau) if optimizer == "yogi" else Sgd(lr)
    return Composed(Split(), WeightedMean("skip"), stepping)
