"""The schema of a job: what a configuration file may say, with every default.

A job is the same for the simulator and a live federation. `job_from` turns a table, as TOML gives
it, into a `Job`; `fedloom.api.job_of` reads it from a file or a recipe, with changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedloom.core.config import build, merge
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import ALL, NONE, Selector
from fedloom.core.registry import Component
from fedloom.core.serving import ServerConfig
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork, Tier

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "EvaluateConfig",
    "Job",
    "RunConfig",
    "Stage",
    "job_from",
]


def _one_of(field: str, value: object, known: tuple[str, ...]) -> None:
    require(value in known, field, value, f"one of {', '.join(known)}")


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen model.

    Attributes:
        name: ``minilm``, ``smollm2``, a folder in transformers' format, or a hub name.
        task: ``classify`` (text), ``causal-lm`` or ``classify-image``.
        pooling: what a classifier reads: ``model`` (the model's own way: first token, pooler, last
            token) or ``mean`` (the mean over tokens, as sentence encoders are trained).
        head_init: ``zeros`` or ``normal`` (standard deviation 0.02) for a new head.
        normalize: scale the pooled vector to length sqrt(width) before the head (``mean`` only).
        max_tokens: longer texts are cut.
        dtype: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the processor multiplies it
            faster, by a short measurement).
        engine: ``fused`` (own blocks), ``transformers`` (module swap), or ``auto``.
    """

    name: str = "minilm"
    task: str = "classify"
    pooling: str = "mean"
    head_init: str = "zeros"
    normalize: bool = False
    max_tokens: int = 64
    dtype: str = "float32"
    engine: str = "auto"

    def __post_init__(self) -> None:
        _one_of("backbone.task", self.task, ("classify", "causal-lm", "classify-image"))
        _one_of("backbone.pooling", self.pooling, ("mean", "model"))
        _one_of("backbone.head_init", self.head_init, ("zeros", "normal"))
        _one_of("backbone.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        _one_of("backbone.engine", self.engine, ("auto", "fused", "transformers"))
        require(self.max_tokens >= 2, "backbone.max_tokens", self.max_tokens, "2 or more")


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
        local: numbers of local training.
        strategy: how updates become the next model.
    """

    name: str = "train"
    rounds: int = 10
    clients_per_round: int = 10
    train: Selector = ALL
    local: LocalWork = LocalWork()
    strategy: Component = Component("fedavg")

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        require(
            self.clients_per_round >= 1,
            "clients_per_round",
            self.clients_per_round,
            "1 or more",
        )
        require(self.train != NONE, "train", self.train, "at least one tag, block or name")


@dataclass(frozen=True)
class EvaluateConfig:
    """When and on what the global model is evaluated.

    Attributes:
        every: rounds between evaluations (the first and last model are always evaluated).
        split: ``valid`` or ``test``, for the curve; the final model is also evaluated on ``test``.
        clients: at the end, evaluate the global model on each client's own examples (0: none, else
            at most so many clients).
    """

    every: int = 1
    split: str = "test"
    clients: int = 0

    def __post_init__(self) -> None:
        require(self.every >= 1, "evaluate.every", self.every, "1 or more")
        require(self.clients >= 0, "evaluate.clients", self.clients, "0 or more")
        _one_of("evaluate.split", self.split, ("valid", "test"))


@dataclass(frozen=True)
class RunConfig:
    """How the run uses this machine; none of it changes what is computed, except `max_tokens`.

    Attributes:
        directory: where results go; ``{name}`` and ``{seed}`` are filled in.
        device: ``cpu``, ``cuda``, or ``auto``.
        workers: cohort chunks trained side by side, one thread each (0: one per core).
        memory_gb: memory that training may take (0: half of what is free at the start).
        clients_at_once: at most so many clients are trained in one batch (0: what memory holds).
        cache_gb: memory for frozen activations (0: none).
        cache_disk_gb: disk for frozen activations that memory does not hold.
        checkpoint_every: rounds between checkpoints.
        keep: checkpoints kept.
        references: also train the references: ``central`` (all data in one place), ``local``
            (each client alone).
    """

    directory: str = "runs/{name}"
    device: str = "auto"
    workers: int = 0
    memory_gb: float = 0.0
    clients_at_once: int = 0
    cache_gb: float = 1.0
    cache_disk_gb: float = 4.0
    checkpoint_every: int = 1
    keep: int = 2
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("run.device", self.device, ("auto", "cpu", "cuda"))
        for name in ("workers", "memory_gb", "clients_at_once", "cache_gb", "cache_disk_gb"):
            require(
                getattr(self, name) >= 0,
                f"run.{name}",
                getattr(self, name),
                "0 or more",
            )
        for name in ("checkpoint_every", "keep"):
            require(
                getattr(self, name) >= 1,
                f"run.{name}",
                getattr(self, name),
                "1 or more",
            )
        for reference in self.references:
            _one_of("run.references", reference, ("central", "local"))


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
        """Rounds of all stages together."""
        return sum(stage.rounds for stage in self.stages)


STAGE_KEYS = ("rounds", "clients_per_round", "train", "local", "strategy")


def job_from(table: Mapping[str, Any]) -> Job:
    """Build a job from a table as TOML gives it.

    The keys of a stage (``rounds``, ``clients_per_round``, ``train``, ``[local]``,
    ``[strategy]``) may stand at the top level: there they are the default of every stage, or the
    only stage where there is no ``[[stages]]``.

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
