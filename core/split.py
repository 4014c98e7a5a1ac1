"""What a job says of a model that is split between a client and a far side."""

from dataclasses import dataclass

from fedloom.core.errors import require

__all__ = ["MODES", "SplitConfig"]

MODES = ("sequential", "v1", "v2", "concat")
"""Whose batches move which far tensors."""


@dataclass(frozen=True)
class SplitConfig:
    """Where the model is cut, and how the sides work together.

    What a client holds is averaged once a round, by the strategy: every ``local.steps`` steps.

    Attributes:
        mode: ``none``: clients hold the whole model. ``v1``: each has its own copy of the far
            tensors, which are averaged with the rest. ``v2``: one copy, stepped by each client's
            batch in turn. ``concat``: one copy, stepped by a batch of every client at once.
            ``sequential``: one copy, and clients take turns and hand their own blocks on.
        bottom: blocks below the far ones, at home.
        top: blocks above them, at home; none where the labels are far.
        labels: ``home``: they stay there, with the head (four legs a step). ``far``: they travel,
            and the head is far (two legs).
        codec_up: how hidden states and gradients go up: ``float64``, ``float32``, ``bf16``,
            ``int8``.
        codec_down: how they come down.
        recompute: the far side keeps only what went in, and finds the rest again.
    """

    mode: str = "none"
    bottom: int = 2
    top: int = 1
    labels: str = "home"
    codec_up: str = "float32"
    codec_down: str = "float32"
    recompute: bool = False

    def __post_init__(self) -> None:
        known = ("none", *MODES)
        require(self.mode in known, "split.mode", self.mode, f"one of {', '.join(known)}")
        require(self.labels in ("home", "far"), "split.labels", self.labels, "one of home, far")
        require(self.bottom >= 0, "split.bottom", self.bottom, "0 or more")
        require(self.top >= 0, "split.top", self.top, "0 or more")
