"""How strategies go together with the adapter, looked at beforehand."""

from collections.abc import Iterator

from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.registry import create

__all__ = ["check_strategies", "deals_learners", "inexact"]


def check_strategies(job: Job, layout: Layout) -> None:
    """Find a strategy that needs what the model lacks.

    Raises:
        ConfigError: there is one.
    """
    for stage in job.stages:
        check = getattr(create("strategies", stage.strategy), "check_model", None)
        if check is not None:
            try:
                check(layout)
            except ConfigError as error:
                raise ConfigError(f"stage {stage.name!r}: {error}") from None


def deals_learners(strategy: object) -> bool:
    """Whether a strategy's tasks say how clients train and send, whatever the job says."""
    return bool(getattr(getattr(strategy, "planner", strategy), "own_learner", False))


def inexact(job: Job, layout: Layout) -> Iterator[str]:
    """A line where tensors are averaged of an adapter in which that is not to average models."""
    if getattr(create("adapters", job.adapter), "affine", True):
        return
    for stage in job.stages:
        strategy = create("strategies", stage.strategy)
        plain = getattr(getattr(strategy, "aggregator", None), "averages", False)
        turns = getattr(getattr(strategy, "planner", None), "one_factor", False)
        sent = [spec for spec in stage.selectors.sent(layout) if "head" not in spec.tags]
        low = [spec.tags & {"A", "B"} for spec in sent if "lora" in spec.tags]
        both = not low or len(frozenset().union(*low)) == 2
        if plain and not turns and sent and both:
            text = "is no mean of the models; fedex-lora, flexlora and rolora come nearer"
            pair = f"strategy {stage.strategy.name!r} with adapter {job.adapter.name!r}"
            yield f"{pair}: the mean of the tensors {text if low else 'is no mean of the models'}"
            return
