"""What a job says of the emulator that devices get in place of the whole backbone."""

from dataclasses import dataclass
from math import inf

from fedloom.core.errors import require

__all__ = ["EmulatorConfig", "kept_layers", "spread_layers"]


@dataclass(frozen=True)
class EmulatorConfig:
    """Offsite tuning: the ends of the backbone train, some of the layers between stand for all.

    Attributes:
        left: layers at the bottom that devices get as they are, to train (0 with `right` = 0: no
            emulator, devices get the whole backbone).
        right: layers at the top, likewise.
        keep: share of the layers between that the emulator keeps, at least one.
        prune: share of each kept matrix that is set to zero, the smallest numbers first.
        bits: kept matrices are rounded to ``2^bits`` levels a row (0: as they are).
        folder: where the emulator is made, or was; empty for the cache.
        distill: steps in which the kept layers between learn to do what all of those between do
            (0: as they are).
        text: file of the owner's that they learn on: ``.txt`` with a text in each line, or CSV,
            JSONL, Parquet.
        column: of the texts, where the file has columns.
        lr: the first learning rate of distilling; it falls along a cosine to zero.
        batch_size: texts of a step.
        seed: of their order.
    """

    left: int = 0
    right: int = 0
    keep: float = 0.5
    prune: float = 0.0
    bits: int = 0
    folder: str = ""
    distill: int = 0
    text: str = ""
    column: str = "text"
    lr: float = 1e-4
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("left", "right"):
            value = getattr(self, name)
            require(value >= 0, f"backbone.emulator.{name}", value, "0 or more")
        require(0 < self.keep <= 1, "backbone.emulator.keep", self.keep, "above 0, and 1 or less")
        require(0 <= self.prune < 1, "backbone.emulator.prune", self.prune, "in [0, 1)")
        text = "0, or 2 to 16"
        require(self.bits == 0 or 2 <= self.bits <= 16, "backbone.emulator.bits", self.bits, text)
        self._check_distilling()

    def _check_distilling(self) -> None:
        require(self.distill >= 0, "backbone.emulator.distill", self.distill, "0 or more")
        require(0 < self.lr < inf, "backbone.emulator.lr", self.lr, "above 0, and finite")
        for name, least in (("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            require(value >= least, f"backbone.emulator.{name}", value, f"{least} or more")
        if self.distill:
            text = "with distill: a file of the owner's"
            require(bool(self.text), "backbone.emulator.text", self.text, text)
            text = "0 with distill, which trains what would be lost"
            require(self.prune == 0, "backbone.emulator.prune", self.prune, text)
            require(self.bits == 0, "backbone.emulator.bits", self.bits, text)

    @property
    def wanted(self) -> bool:
        """Whether there is to be an emulator."""
        return self.left + self.right > 0

    def trained(self) -> tuple[int, ...]:
        """Indices of the layers that train, those at the top counted from there.

        >>> EmulatorConfig(left=2, right=1).trained()
        (0, 1, -1)
        """
        return (*range(self.left), *range(-self.right, 0))


def spread_layers(count: int, kept: int) -> tuple[int, ...]:
    """Which of some layers stay where others are dropped uniformly.

    ``round(i (n - 1) / (m - 1))`` for i = 0 to m - 1 (Xiao et al., 2023; halves to the even
    number): the first and the last always, but the middle one where only one stays.

    >>> spread_layers(6, 4)
    (0, 2, 3, 5)
    >>> spread_layers(6, 1)
    (2,)

    Args:
        count: layers there are (n), at least one.
        kept: layers that stay (m), 1 to n.
    """
    if kept == 1:
        return ((count - 1) // 2,)
    return tuple(round(i * (count - 1) / (kept - 1)) for i in range(kept))


def kept_layers(how: EmulatorConfig, depth: int) -> tuple[int, ...]:
    """The layers of a backbone, in order, that an emulator consists of, its ends included.

    Raises:
        ConfigError: the ends leave no layer between them.
    """
    between = depth - how.left - how.right
    text = f"fewer than {depth} in all, the layers of the backbone"
    ends = f"{how.left} + {how.right}"
    require(between > 0, "backbone.emulator.left + backbone.emulator.right", ends, text)
    middle = spread_layers(between, max(1, round(how.keep * between)))
    top = range(depth - how.right, depth)
    return (*range(how.left), *(how.left + i for i in middle), *top)
