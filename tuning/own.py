"""What a client holds between rounds and never sends: names, beginnings, and its own model.

Three kinds of tensors lie in one record. Under its own name, one that the client keeps (``keep`` of
the stage): it starts from it in place of the global model's. Under ``control/NAME``, what its
learner remembers of the gradients of NAME. Under ``personal/NAME``, that tensor of a model of the
client's own, which is trained beside the global one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np

from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.layout import NONE, Layout, Vector
from fedloom.core.registry import create
from fedloom.core.types import Params
from fedloom.tuning.keeping import kept_tensors

__all__ = [
    "CONTROL",
    "PERSONAL",
    "called",
    "first_held",
    "held_tensors",
    "holds",
    "own_model",
    "part_of",
    "without",
]

CONTROL = "control/"
PERSONAL = "personal/"


def called(prefix: str, layout: Layout) -> Layout:
    """The tensors of a layout under names that begin with `prefix`."""
    return Layout(tuple(replace(spec, name=f"{prefix}{spec.name}") for spec in layout))


def part_of(prefix: str, own: Params) -> Params:
    """The tensors of a record whose names begin with `prefix`, without it."""
    found = Layout(tuple(spec for spec in own.layout if spec.name.startswith(prefix)))
    names = tuple(replace(spec, name=spec.name.removeprefix(prefix)) for spec in found)
    return Params(Layout(names), own.layout.gather(own.vector, found))


def without(prefix: str, own: Params) -> Params | None:
    """A record without the tensors whose names begin with `prefix`; None where nothing is left."""
    left = Layout(tuple(spec for spec in own.layout if not spec.name.startswith(prefix)))
    return own.only(left) if left.specs else None


def holds(job: Job, stage: int) -> bool:
    """Whether clients hold anything in a stage of a job."""
    return job.stages[stage].keep != NONE or _remembering(job) is not None


def held_tensors(job: Job, layout: Layout) -> Layout:
    """A client's record in a job: tensors that it keeps, and what its learner remembers.

    Args:
        job: all its stages hold the same.
        layout: of the model.

    Raises:
        ConfigError: two stages keep different tensors.
        LayoutError: a pattern matches no tensor.
    """
    kept, remembers = kept_tensors(job, layout), _remembering(job)
    if remembers is None:
        return kept
    if kept.specs and any(stage.keep == NONE for stage in job.stages):
        text = f"learner {job.learner.name!r} remembers: every stage keeps the same, or none any"
        raise ConfigError(f"keep: {text}")
    sent = {spec.name for stage in job.stages for spec in stage.selectors.sent(layout)}
    whole = Layout(tuple(spec for spec in layout if spec.name in sent))
    return Layout.concat((kept, remembers(whole)))


def _remembering(job: Job) -> Callable[[Layout], Layout] | None:
    found = getattr(create("learners", job.learner), "remembers", None)
    return cast("Callable[[Layout], Layout] | None", found)


def first_held(layout: Layout, params: Params) -> Params:
    """A record before a client's first round: as the global model is, and controls zero."""
    parts: list[Vector] = [np.zeros(0, np.float32)]
    for spec in layout:
        if spec.name.startswith(CONTROL):
            parts.append(np.zeros(spec.size, dtype=np.float32))
        else:
            parts.append(params.vector[params.layout.span(spec.name.removeprefix(PERSONAL))])
    return Params(layout, np.concatenate(parts))


def own_model(params: Params, own: Params) -> Params | None:
    """The global model with a client's own tensors in place; None where it has none."""
    kept = without(CONTROL, own)
    if kept is None:
        return None
    rest, mine = without(PERSONAL, kept), part_of(PERSONAL, kept)
    return (params if rest is None else params.having(rest)).having(mine)
