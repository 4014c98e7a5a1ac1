"""The schema of a job: what a configuration file may say, with every default.

A job is the same for the simulator and a live federation. `job_from` turns a table, as TOML gives
it, into a `Job`; `fedloom.sources.job_of` reads it from a file or a recipe, with changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fedloom.core.backbone_job import BackboneConfig
from fedloom.core.config import build, merge
from fedloom.core.errors import ConfigError, one_of, require
from fedloom.core.layout import ALL, NONE, Selector
from fedloom.core.registry import Component
from fedloom.core.running import RunConfig
from fedloom.core.serving import ServerConfig
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork, Selectors, Tier

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "EvaluateConfig",
    "Job",
    "Stage",
    "job_from",
]


@dataclass(frozen=True)
class DataConfig:
    """The examples and where their parts stand in the file.

    Attributes:
        path: CSV, JSONL (``.gz`` too), Parquet or NPZ file; relative to the configuration file.
        text: column of the text (``pixels`` array for images).
        prompt: column put before the text and not learned, for ``causal-lm``; empty for none.
        label: column of the label, for classification.
        client: column that says whose example it is; empty where a partition makes the clients.
        split: column with ``train``/``valid``/``test``; empty to hold out every tenth example.
        classes: names of the classes in order; empty for those found in the file.
        unlabelled: keep training examples without a label (null or empty), for a learner that has
            a use for them.
        labels: of the training examples of a simulation, so many keep their label, chosen by the
            seed; those that lose it are kept where `unlabelled` says so (0: all keep theirs).
        label_clients: they lie on so many clients (0: on any).
        label_gamma: their numbers on those clients are shares of a symmetric Dirichlet
            distribution of this concentration; small: most of them on a few (0: alike).
        max_clients: keep the clients with most training examples only (0: all).
        max_examples: at most so many training examples of a client (0: all).
        max_test: at most so many examples of each evaluation split (0: all).
    """

    path: str = ""
    text: str = "text"
    prompt: str = ""
    label: str = "label"
    client: str = ""
    split: str = ""
    classes: tuple[str, ...] = ()
    unlabelled: bool = False
    labels: int = 0
    label_clients: int = 0
    label_gamma: float = 0.0
    max_clients: int = 0
    max_examples: int = 0
    max_test: int = 0

    def __post_init__(self) -> None:
        numbers = ("labels", "label_clients", "label_gamma", "max_clients", "max_examples")
        for name in (*numbers, "max_test"):
            require(
                getattr(self, name) >= 0,
                f"data.{name}",
                getattr(self, name),
                "0 or more",
            )


@dataclass(frozen=True)
class Stage:
    """A stretch of rounds with one way of working; stages follow each other on one model.

    Attributes:
        name: shown in progress and plots.
        rounds: how many.
        clients_per_round: size of the cohort.
        train: which tensors train (tags, blocks or globs); the rest of the adapter stays as it is.
        up: which of them are sent to the server.
        down: which of the tensors that rounds have changed are sent to clients; they have the
            others as they were before the first round.
        keep: which of those that train each client keeps for itself, from round to round. They are
            never sent: the global model has them as they were.
        local: numbers of local training.
        strategy: how updates become the next model.
        codec_up: how updates travel; None for the job's.
        patience: the stage ends after so many rounds without a gain, though it has more (0: it
            plays all of them).
        min_gain: what the evaluation must gain on the best one so far: in accuracy, or in loss
            where there is none.
    """

    name: str = "train"
    rounds: int = 10
    clients_per_round: int = 10
    train: Selector = ALL
    up: Selector = ALL
    down: Selector = ALL
    keep: Selector = NONE
    local: LocalWork = LocalWork()
    strategy: Component = Component("fedavg")
    codec_up: Component | None = None
    patience: int = 0
    min_gain: float = 0.001

    def __post_init__(self) -> None:
        require(self.patience >= 0, "patience", self.patience, "0 (all rounds) or more")
        require(0 <= self.min_gain < inf, "min_gain", self.min_gain, "0 or more, and finite")
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        require(
            self.clients_per_round >= 1,
            "clients_per_round",
            self.clients_per_round,
            "1 or more",
        )
        for name in ("train", "up"):
            patterns = getattr(self, name)
            require(patterns != NONE, name, patterns, "at least one tag, block or name")

    @property
    def selectors(self) -> Selectors:
        """Which tensors take part, and how."""
        return Selectors(self.train, self.up, self.down, self.keep)


@dataclass(frozen=True)
class EvaluateConfig:
    """When and on what the global model is evaluated.

    Attributes:
        every: rounds between evaluations (the first and last model are always evaluated).
        split: ``valid`` or ``test``, for the curve; the final model is also evaluated on ``test``.
        clients: at the end, evaluate the global model on each client's own examples (0: none, else
            at most so many clients); where clients keep tensors, each client's own model too.
        hold_out: share of its examples that a simulated client does not train on, and on which it
            is evaluated (0: on those that it trains on).
    """

    every: int = 1
    split: str = "test"
    clients: int = 0
    hold_out: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.hold_out < 1, "evaluate.hold_out", self.hold_out, "in [0, 1)")
        require(self.every >= 1, "evaluate.every", self.every, "1 or more")
        require(self.clients >= 0, "evaluate.clients", self.clients, "0 or more")
        one_of("evaluate.split", self.split, ("valid", "test"))


@dataclass(frozen=True)
class Job:
    """A whole federated fine-tuning job."""

    name: str = "run"
    seed: int = 0
    backbone: BackboneConfig = BackboneConfig()
    data: DataConfig = DataConfig()
    partition: Component = Component("natural")
    adapter: Component = Component("lora")
    learner: Component = Component("backprop")
    codec_up: Component = Component("float32")
    codec_down: Component = Component("float32")
    split: SplitConfig = SplitConfig()
    stages: tuple[Stage, ...] = (Stage(),)
    evaluate: EvaluateConfig = EvaluateConfig()
    device: Component = Component("none")
    attack: Component = Component("none")
    tiers: tuple[Tier, ...] = ()
    run: RunConfig = field(default_factory=RunConfig)
    server: ServerConfig = ServerConfig()

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name", self.name, "not empty")
        require(0 <= self.seed < 2**63, "seed", self.seed, "in [0, 2^63)")
        names = [tier.name for tier in self.tiers]
        require(len(set(names)) == len(names), "tiers.name", names, "each name once")
        share = sum(tier.share for tier in self.tiers)
        require(share <= 1 + 1e-9, "tiers.share", share, "1 or less in all")

    @property
    def rounds(self) -> int:
        """Rounds of all stages together, none of which ends before its time."""
        return sum(stage.rounds for stage in self.stages)

    def up(self, stage: int) -> Component:
        """How updates travel in a stage."""
        return self.stages[stage].codec_up or self.codec_up


_KEYS = "rounds patience min_gain clients_per_round train up down keep local strategy"
STAGE_KEYS = tuple(_KEYS.split())


def job_from(table: Mapping[str, Any]) -> Job:
    """Build a job from a table as TOML gives it.

    The keys of a stage (``rounds``, ``patience``, ``min_gain``, ``clients_per_round``, ``train``,
    ``up``, ``down``, ``keep``,
    ``[local]``, ``[strategy]``) may stand at the top level: there they are the default of every
    stage, or the only stage where there is no ``[[stages]]``.

    Raises:
        ConfigError: a key or value that the schema does not allow.
    """
    rest = dict(table)
    default = {key: rest.pop(key) for key in STAGE_KEYS if key in rest}
    if "stages" not in rest:
        build(Stage, default)  # so that a mistake is told under the name it was written by
    stages = rest.pop("stages", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise ConfigError(f"stages = {stages!r}: expected one or more [[stages]] tables")
    rest["stages"] = [merge(default, stage) for stage in stages]
    return build(Job, rest)
