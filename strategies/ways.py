"""Whether clients can train and send in the ways that a strategy's tasks say."""

from collections.abc import Collection
from typing import cast

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.layout import NONE
from fedloom.core.registry import create
from fedloom.core.types import ClientTask
from fedloom.strategies.contract import hook

__all__ = ["check_ways"]


def check_ways(tasks: Collection[ClientTask], round: int) -> None:
    """Find a way of its own in a task that there is not, or in which tensors cannot be kept.

    Raises:
        StrategyError: there is one; nothing has been handed out.
    """
    learners = {id(task.learner): task for task in tasks if task.learner is not None}
    codecs = {id(task.codec): task.codec for task in tasks if task.codec is not None}
    with hook("configure", round):
        for codec in codecs.values():
            create("codecs", codec)
        for task in learners.values():
            learner = create("learners", cast(Component, task.learner))
            if task.selectors.keep != NONE and not getattr(learner, "keeps", False):
                text = f"{cast(Component, task.learner).name!r} moves all tensors alike"
                raise ConfigError(f"keep = {list(task.selectors.keep)}: the learner {text}")
