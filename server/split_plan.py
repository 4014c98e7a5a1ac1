"""What a server must know of a split job: which tensors clients hold, and what it hosts itself."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from fedloom.core.layout import Layout
from fedloom.core.split import SplitConfig
from fedloom.core.types import ClientTask, Params
from fedloom.server.split_host import Terms
from fedloom.tuning.cut import Cut
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.stage import Stage

__all__ = ["SplitPlan"]

_TOKENS = 1 << 16
"""Of a leg, at most."""
_WIDEST = 8
"""Bytes of a number as the widest codec packs it."""


@dataclass(frozen=True, eq=False)
class SplitPlan:
    """How a live job is split.

    Attributes:
        model: the whole model.
        cut: what is far away, for a client that was told nothing else.
        config: how the sides work together.
        most: the most blocks below the far ones that any client has.
        keep: seconds for which a session without a stream is kept: as long as a round may take.
    """

    model: FusedModel
    cut: Cut
    config: SplitConfig
    most: int
    keep: float

    @property
    def weights(self) -> str:
        """By what name a device finds who serves far blocks that are not hosted here."""
        return "" if self.hosted else self.model.backbone.digest

    @property
    def hosted(self) -> bool:
        """Whether this server computes the far blocks; frozen ones are served by stages."""
        return self.config.mode != "frozen"

    @property
    def mode(self) -> str:
        """As the far blocks are hosted: rounds of one client each are the same in turn."""
        return "v1" if self.config.mode == "sequential" else self.config.mode

    @property
    def shared(self) -> bool:
        """Whether all clients of a round move the same far tensors."""
        return self.hosted and self.mode != "v1"

    @property
    def held(self) -> Collection[str]:
        """Names of the blocks that any client holds."""
        return replace(self.cut, first=self.most).home(self.model.depth)

    def cut_of(self, task: ClientTask) -> Cut:
        """What is far away for one client."""
        return self.cut if task.bottom is None else replace(self.cut, first=task.bottom)

    def down(self, layout: Layout) -> Layout:
        """Those tensors that clients are sent: those that any of them holds."""
        return replace(self.cut, first=self.most).held(layout, self.model.depth)

    def up(self, task: ClientTask, layout: Layout) -> Layout:
        """Those tensors that one client holds."""
        return self.cut_of(task).held(layout, self.model.depth)

    def stage(self, task: ClientTask, params: Params) -> Stage:
        """The far side of clients who were given such a task, where a round begins."""
        options = StageOptions(self.mode, recompute=self.config.recompute)
        train, work, cut = task.selectors.train, task.work, self.cut_of(task)
        return Stage(self.model, params, train, work, cut=cut, options=options)

    def terms(self, task: ClientTask, plan: str) -> Terms:
        """What such a far side takes in sessions of a plan."""
        cut, backbone = self.cut_of(task), self.model.backbone
        return Terms(
            plan,
            cut.first,
            cut.last,
            backbone.shape.width,
            labels=cut.labels == "far",
            dtype=str(backbone.dtype).removeprefix("torch."),
            codecs={self.config.codec_up, self.config.codec_down},
            max_bytes=_TOKENS * backbone.shape.width * _WIDEST,
            max_length=backbone.shape.max_positions,
            max_tokens=_TOKENS,
            keep=self.keep,
            alone=True,
        )
