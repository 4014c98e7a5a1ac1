"""What is asked of a client: the numbers of its training, and which tensors take part."""

from dataclasses import dataclass

from fedloom.core.component import Component
from fedloom.core.errors import LayoutError, require
from fedloom.core.layout import ALL, NONE, Layout, Selector

__all__ = ["LocalWork", "Selectors", "Tier"]


@dataclass(frozen=True)
class Selectors:
    """Who does what with which tensors: patterns over names, blocks and tags (`Layout.select`).

    Attributes:
        train: trained by the client in this round.
        up: sent to the server (of those trained).
        down: sent to the client before it trains (of those that rounds have changed).
        keep: kept by the client across rounds, never sent; the client's next round starts from
            them, not from the global model's.
    """

    train: Selector = ALL
    up: Selector = ALL
    down: Selector = ALL
    keep: Selector = NONE

    def sent(self, layout: Layout) -> Layout:
        """The tensors of a model's `layout` that a client sends back: trained, up, and not kept.

        Raises:
            LayoutError: a pattern matches no tensor.
        """
        trained, up, kept = (layout.select(s) for s in (self.train, self.up, self.keep))
        specs = (s for s in layout if s.name in trained and s.name in up and s.name not in kept)
        return Layout(tuple(specs))

    def kept(self, layout: Layout) -> Layout:
        """The tensors of a model's `layout` that a client keeps.

        Raises:
            LayoutError: a pattern matches no tensor, or one that is kept does not train.
        """
        kept, trained = layout.select(self.keep), layout.select(self.train)
        idle = [spec.name for spec in kept if spec.name not in trained]
        if idle:
            text = f"tensor {idle[0]!r} is kept and does not train"
            raise LayoutError(f"keep = {list(self.keep)}: {text} (train = {list(self.train)})")
        return kept


@dataclass(frozen=True)
class LocalWork:
    """The numbers of local training.

    Attributes:
        epochs: passes over the client's examples; ignored when `steps` is given.
        steps: optimizer steps (over as many passes as that takes), or 0 to count epochs.
        batch_size: examples in a batch.
        max_examples: at most so many of a client's examples are used in a round (0: all).
        optimizer: ``sgd`` or ``adamw``.
        lr: learning rate.
        momentum: heavy-ball momentum of SGD, torch's convention.
        betas: decay rates of AdamW's moments.
        eps: AdamW's denominator offset.
        weight_decay: L2 (SGD, torch's convention) or decoupled (AdamW) decay.
        clip_norm: a client's gradient is scaled to at most this L2 norm (0: not clipped).
        prox_mu: weight of FedProx's proximal term mu/2 ||w - w_global||^2 (Li et al., MLSys 2020,
            eq. 2).
        head_lr: learning rate of the tensors tagged ``head`` (0: the same as `lr`).
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 16
    max_examples: int = 0
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    prox_mu: float = 0.0
    head_lr: float = 0.0

    def __post_init__(self) -> None:
        known = ("sgd", "adamw")
        require(
            self.optimizer in known,
            "local.optimizer",
            self.optimizer,
            f"one of {known}",
        )
        require(self.steps >= 0, "local.steps", self.steps, "0 (count epochs) or more")
        require(self.epochs >= 1, "local.epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "local.batch_size", self.batch_size, "1 or more")
        require(0 < self.lr < float("inf"), "local.lr", self.lr, "above 0 and finite")
        require(0 <= self.momentum < 1, "local.momentum", self.momentum, "in [0, 1)")
        require(
            all(0 <= b < 1 for b in self.betas),
            "local.betas",
            self.betas,
            "each in [0, 1)",
        )
        require(0 < self.eps < float("inf"), "local.eps", self.eps, "above 0 and finite")
        for name in ("max_examples", "weight_decay", "clip_norm", "prox_mu", "head_lr"):
            value = getattr(self, name)
            require(
                0 <= value < float("inf"),
                f"local.{name}",
                value,
                "0 or more, and finite",
            )

    def step_count(self, examples: int) -> int:
        """Optimizer steps that a client of so many training examples takes in a round."""
        used = min(examples, self.max_examples or examples)
        return self.steps or self.epochs * -(-used // self.batch_size)

    @property
    def moments(self) -> int:
        """Numbers that the optimizer keeps for each that trains."""
        return 2 if self.optimizer == "adamw" else int(self.momentum > 0)

    def state_bytes(self, trained: int) -> int:
        """Memory of so many numbers that train: value, gradient and change of each, and moments."""
        return 4 * trained * (3 + self.moments)


@dataclass(frozen=True)
class Tier:
    """What devices of one kind can do, where a federation has several; None: as the job has it.

    Attributes:
        name: of the kind; a client says it of itself, or the simulator deals it out.
        share: of the simulated population that is of this kind, from 0 to 1.
        learner: how data becomes an update.
        codec: how updates travel.
        train: which of the stage's tensors train.
        local: numbers of local training.
        memory_mb: MiB that training may take there (0: not known); of a split model such a device
            takes as many blocks as fit.
        bottom: blocks of a split model that such a device has below the far ones, whatever its
            memory.
        device: whose time and energy a simulated one takes; None for the job's.
        rank: of the adapter's low rank, what such a device trains and sends.
    """

    name: str
    share: float = 0.0
    learner: Component | None = None
    codec: Component | None = None
    train: Selector | None = None
    local: LocalWork | None = None
    memory_mb: int = 0
    bottom: int | None = None
    device: Component | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "tiers.name", self.name, "not empty")
        require(0 <= self.share <= 1, "tiers.share", self.share, "0 to 1")
        require(self.train != NONE, "tiers.train", self.train, "at least one tag, block or name")
        where = f"tiers.{self.name}"
        require(self.memory_mb >= 0, f"{where}.memory_mb", self.memory_mb, "0 (not known) or more")
        fixed = self.bottom is None or self.bottom >= 0
        require(fixed, f"{where}.bottom", self.bottom, "0 or more")
        require(self.rank is None or self.rank >= 1, f"{where}.rank", self.rank, "1 or more")
