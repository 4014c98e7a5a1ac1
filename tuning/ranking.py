"""Clients that have a part of the adapter's rank: who can train so, looked at beforehand."""

from collections.abc import Iterator

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.ranks import largest_rank
from fedloom.core.registry import create

__all__ = ["check_ranks", "check_trains_ranks", "prunes"]


def check_ranks(job: Job, layout: Layout) -> None:
    """Find ranks of devices that the adapter, a strategy, a learner or a codec has no place for.

    Raises:
        ConfigError: there is one.
    """
    most = largest_rank(layout)
    for tier in job.tiers:
        if tier.rank is not None and tier.rank > most:
            text = f"the adapter's rank is {most}; expected 1 to that"
            raise ConfigError(f"tiers.{tier.name}.rank = {tier.rank}: {text}")
    if prunes(job) and not most:
        text = f"adapter {job.adapter.name!r} has no rank that clients could prune; 'lora' has"
        raise ConfigError(f"learner {_pruning(job)!r}: {text}")
    for where, strategy in _ranked(job):
        if job.split.mode != "none":
            text = f"clients of a split model (split.mode = {job.split.mode!r}) have all of it"
            raise ConfigError(f"{where}: {text}")
        if not getattr(create("strategies", strategy), "takes_ranks", False):
            text = f"strategy {strategy.name!r} takes whole updates; 'flexlora', 'flora' take parts"
            raise ConfigError(f"{where}: {text}")
        for learner in _learners(job):
            check_trains_ranks(create("learners", learner), learner.name)
        codecs = (job.codec_up, *(t.codec for t in job.tiers if t.codec is not None))
        for codec in codecs:
            if getattr(create("codecs", codec), "sends_steps", False):
                text = f"codec {codec.name!r} has clients follow all of the model by its steps"
                raise ConfigError(f"{where}: {text}")


def prunes(job: Job) -> bool:
    """Whether clients of a job may give up some of their rank for good."""
    return bool(_pruning(job))


def check_trains_ranks(learner: object, name: str) -> None:
    """Refuse a learner that would move what lies beyond a client's rank.

    Raises:
        ConfigError: it moves all numbers, not those with a gradient.
    """
    if not getattr(learner, "ranks", False):
        text = f"{name!r} moves all numbers of the adapter; 'backprop' trains a part of its rank"
        raise ConfigError(f"learner: {text}")


def _learners(job: Job) -> list[Component]:
    return [job.learner, *(tier.learner for tier in job.tiers if tier.learner is not None)]


def _pruning(job: Job) -> str:
    """The learner that prunes ranks; empty where none does."""
    learners = ((one.name, create("learners", one)) for one in _learners(job))
    return next((name for name, learner in learners if getattr(learner, "prunes", False)), "")


def _ranked(job: Job) -> Iterator[tuple[str, Component]]:
    """Strategies whose clients have parts of the rank, and who says so."""
    by_tier = next((tier.name for tier in job.tiers if tier.rank is not None), None)
    for stage in job.stages:
        if getattr(create("strategies", stage.strategy), "deals_ranks", False):
            yield f"ranks of the stage {stage.name!r}", stage.strategy
        elif by_tier is not None:
            yield f"tiers.{by_tier}.rank", stage.strategy
        elif prunes(job):
            yield f"learner {_pruning(job)!r}", stage.strategy
