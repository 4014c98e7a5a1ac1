"""What a job says of a model that is split between a client and a far side."""

from dataclasses import dataclass

from fedloom.core.errors import require

__all__ = ["MODES", "SplitConfig", "session_plan"]

MODES = ("sequential", "v1", "v2", "concat", "frozen")
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
            ``frozen``: nothing trains far away.
        bottom: blocks below the far ones, at home.
        most_bottom: with more than `bottom`, each client takes as many blocks as its memory holds,
            from `bottom` up to these (0: all take `bottom`).
        top: blocks above them, at home; none where the labels are far.
        labels: ``home``: they stay there, with the head (four legs a step). ``far``: they travel,
            and the head is far (two legs).
        codec_up: how hidden states and gradients go up: ``float64``, ``float32``, ``bf16``,
            ``int8``.
        codec_down: how they come down.
        recompute: the far side keeps only what went in, and finds the rest again.
        clip: hidden states that go up are scaled to at most this L2 norm for each token (0: as they
            are).
        clip_grad: gradients that go up, likewise; they are far smaller.
        noise: standard deviation of Gaussian noise on what goes up, as a multiple of its clip; what
            is not clipped gets none.
        patience: seconds for which a live far side keeps the others waiting for a late client.
        stages: with ``frozen``, live: ``HOST:PORT`` of every ``fedloom stage`` that serves blocks.
    """

    mode: str = "none"
    bottom: int = 2
    top: int = 1
    labels: str = "home"
    codec_up: str = "float32"
    codec_down: str = "float32"
    recompute: bool = False
    most_bottom: int = 0
    clip: float = 0.0
    clip_grad: float = 0.0
    noise: float = 0.0
    patience: float = 10.0
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = ("none", *MODES)
        require(self.mode in known, "split.mode", self.mode, f"one of {', '.join(known)}")
        require(self.labels in ("home", "far"), "split.labels", self.labels, "one of home, far")
        require(self.bottom >= 0, "split.bottom", self.bottom, "0 or more")
        require(self.top >= 0, "split.top", self.top, "0 or more")
        most, text = self.most_bottom, f"0, or split.bottom = {self.bottom} or more"
        require(most == 0 or most >= self.bottom, "split.most_bottom", most, text)
        for name in ("clip", "clip_grad", "noise"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"split.{name}", value, "0 or more, and finite")
        text = "0 without split.clip or split.clip_grad, of which it is a multiple"
        clipped = self.clip > 0 or self.clip_grad > 0
        require(self.noise == 0 or clipped, "split.noise", self.noise, text)
        require(self.patience > 0, "split.patience", self.patience, "above 0")


def session_plan(job: str, round: int) -> str:
    """What both sides of a live round call what they work on.

    Args:
        job: SHA-256 (hex) of the job's manifest.
        round: its number.
    """
    return f"{job}/{round}"
