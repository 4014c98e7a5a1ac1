"""Where a model is cut: what stays at home, and what lies far away."""

from dataclasses import dataclass

from fedloom.core.errors import ConfigError, SplitError
from fedloom.core.layout import Layout, Selector
from fedloom.core.split import SplitConfig

__all__ = ["Cut", "cut_of", "own_train"]


@dataclass(frozen=True)
class Cut:
    """Blocks `first` up to `last` are far away; with the labels there, the head is too.

    Attributes:
        first: the first far block, counted from 0: so many blocks lie below it at home.
        last: the block after the last far one; the model's depth where labels are far.
        labels: ``home`` (four legs) or ``far`` (two).
    """

    first: int
    last: int
    labels: str = "home"

    def check(self, depth: int) -> None:
        """Refuse a cut that a model of `depth` blocks cannot have.

        Raises:
            SplitError: there is no far block, or the far side would lack what lies above it.
        """
        where = f"cut {self.first} to {self.last} of {depth} blocks"
        if not 0 <= self.first < self.last <= depth:
            text = f"expected 0 <= first < last <= {depth}"
            raise SplitError(f"{where}: {text}", code="cut")
        if self.labels not in ("home", "far"):
            raise SplitError(f"labels = {self.labels!r}: one of home, far", code="labels")
        if self.labels == "far" and self.last != depth:
            text = f"with the labels far away so is all that lies above: last = {depth}"
            raise SplitError(f"{where}: {text}", code="cut")

    def far(self, depth: int) -> frozenset[str]:
        """Names of the far blocks."""
        self.check(depth)
        blocks = {f"layer.{i}" for i in range(self.first, self.last)}
        return frozenset(blocks | ({"final", "head"} if self.labels == "far" else set()))

    def home(self, depth: int) -> frozenset[str]:
        """Names of the blocks at home."""
        every = {"embeddings", "final", "head", *(f"layer.{i}" for i in range(depth))}
        return frozenset(every - self.far(depth))

    def held(self, layout: Layout, depth: int) -> Layout:
        """Those tensors that lie in blocks at home."""
        home = self.home(depth)
        return Layout(tuple(spec for spec in layout if spec.block in home))


def cut_of(
    split: SplitConfig, depth: int, bottom: int | None = None, where: str = "split.bottom"
) -> Cut:
    """Where a model of `depth` blocks is cut.

    Args:
        split: the job's keys.
        depth: blocks of the model.
        bottom: blocks below the far ones for some client; None for the job's.
        where: what says so, for the message.

    Raises:
        ConfigError: no block is left far away.
    """
    below = split.bottom if bottom is None else bottom
    top = split.top if split.labels == "home" else 0
    if below + top >= depth:
        text = f"{below} blocks below and {top} above leave none of {depth} far away"
        raise ConfigError(f"{where}, split.top: {text}")
    return Cut(below, depth - top, split.labels)


def own_train(whole: Layout, train: Selector, side: Layout) -> Selector:
    """The names of what trains on one side, where `train` trains of the whole model.

    Raises:
        LayoutError: a pattern matches no tensor of the whole.
    """
    return tuple(spec.name for spec in whole.select(train) if spec.name in side)
