"""The models of a round for download: the global one, and those beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from fedloom.codecs.base import Codec
from fedloom.codecs.branches import branch_down
from fedloom.codecs.downlink import Downlink, follows
from fedloom.codecs.exchange import changed, sent_by
from fedloom.core.registry import create
from fedloom.core.types import Briefing, State
from fedloom.server.contents import Content, Contents
from fedloom.server.failpoints import reach
from fedloom.server.models import Models
from fedloom.server.plan import Plan
from fedloom.strategies.contract import branches_of, briefing_of

__all__ = ["Published", "Publishing"]


@dataclass(frozen=True)
class Published:
    """What clients of a round may download.

    Attributes:
        models: the global model.
        branches: the models beside it, by name.
    """

    models: Models
    branches: Mapping[str, Content] = field(default_factory=dict)


@dataclass(eq=False)
class Publishing:
    """Offers one version of the model at a time, and forgets the one before.

    Attributes:
        plan: the job.
        contents: where models are offered.
    """

    plan: Plan
    contents: Contents
    _now: Published | None = None

    def round(self, index: int, strategy: object, state: State, number: int) -> Published:
        """Offer what a round of a stage starts from.

        Args:
            index: of the stage.
            strategy: the stage's.
            state: the state before the round.
            number: rounds of the whole run that are done.

        Raises:
            StrategyError: the strategy's branches or briefing cannot be used.
        """
        briefing = briefing_of(strategy, state)
        models = self._models(index, state, number, briefing)
        return self._instead(Published(models, self._branches(index, strategy, state, briefing)))

    def model(self, index: int, state: State, number: int) -> Models:
        """Offer a model alone, with nothing beside it; as `round`."""
        return self._instead(Published(self._models(index, state, number, {}))).models

    def _models(self, index: int, state: State, number: int, briefing: Briefing) -> Models:
        job, layout = self.plan.job, state.params.layout
        up, down = (cast(Codec, create("codecs", c)) for c in (job.up(index), job.codec_down))
        part = changed([s.selectors for s in job.stages[: index + 1]], layout)
        part = self.plan.split.down(part) if self.plan.split else part
        beside, follow = briefing, follows(up, down)
        made = Downlink(state, down, part, number=number, briefing=beside, following=follow)
        return Models(made, self.contents)

    def _branches(
        self, index: int, strategy: object, state: State, briefing: Briefing
    ) -> dict[str, Content]:
        found, job = dict[str, Content](), self.plan.job
        codec = cast(Codec, create("codecs", job.codec_down))
        before = sent_by([s.selectors for s in job.stages[:index]], state.params.layout)
        for name, own in branches_of(strategy, state).items():
            payload = branch_down(own, state, codec, before, briefing=briefing)
            found[name] = self.contents.put_bytes(bytes(payload.frame))
        return found

    def _instead(self, new: Published) -> Published:
        """Offer this and forget what was offered before."""
        old, self._now = self._now, new
        kept = {new.models.content.sha256, *(c.sha256 for c in new.branches.values())}
        if old is not None:
            old.models.forget(kept)
            for content in old.branches.values():
                if content.sha256 not in kept:
                    self.contents.forget(content.sha256)
        reach("model-published")
        return new
