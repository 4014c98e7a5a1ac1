"""Whether a job's split goes with its other parts and its model: looked at before it begins."""

from dataclasses import replace

from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.registry import create
from fedloom.core.split import SplitConfig
from fedloom.core.work import Tier
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.base import CohortModel
from fedloom.tuning.cut import Cut, cut_of
from fedloom.tuning.frozen_far import check_frozen
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.ordering import ALONE

__all__ = ["check_split", "cut_model"]

LEARNERS = ("backprop", "finite-difference")
"""Those that ask a far side for nothing but hidden states and gradients."""


def check_split(job: Job) -> None:
    """Refuse a job whose split and other parts do not go together.

    Raises:
        ConfigError: a codec that is unknown, a learner or updates that a split model has not,
            labels that go where nothing trains, or kinds of devices that its mode has not.
    """
    split = job.split
    if split.mode == "none":
        for tier in job.tiers:
            if tier.bottom is not None or tier.memory_mb:
                text = "bottom and memory_mb are of a split model; split.mode = 'none'"
                raise ConfigError(f"tiers.{tier.name}: {text}")
        return
    for name in (split.codec_up, split.codec_down):
        codec_named(name)
    if split.mode == "frozen" and split.labels != "home":
        text = "only blocks are far away in split.mode = 'frozen'; expected home"
        raise ConfigError(f"split.labels = {split.labels!r}: {text}")
    _check_read(job)
    _check_ways(job)
    if split.mode not in ALONE:
        _check_alike(split, job.tiers)


def _check_read(job: Job) -> None:
    """Refuse what a device cannot make, or a far side cannot read, of a part of the backbone."""
    model = f"a split model (split.mode = {job.split.mode!r})"
    if job.backbone.head_init == "words":
        text = f"zeros or normal: a head of words is made of all of the backbone, not of {model}"
        raise ConfigError(f"backbone.head_init = 'words': {text}")
    if job.backbone.pooling == "mask":
        text = f"mean, last or model: the far side of {model} knows no place of a mask"
        raise ConfigError(f"backbone.pooling = 'mask': {text}")


def _check_ways(job: Job) -> None:
    """Refuse ways of training and of sending that a split model has not."""
    model = f"a split model (split.mode = {job.split.mode!r})"
    own = [(f"tiers.{tier.name}.", tier.learner, "codec", tier.codec) for tier in job.tiers]
    own += [(f"stages.{stage.name}.", None, "codec_up", stage.codec_up) for stage in job.stages]
    for where, learner, key, codec in [("", job.learner, "codec_up", job.codec_up), *own]:
        if learner is not None and learner.name not in LEARNERS:
            text = f"{model} goes with {', '.join(LEARNERS)}"
            raise ConfigError(f"{where}learner = {learner.name!r}: {text}")
        if codec is not None and getattr(create("codecs", codec), "sends_steps", False):
            # Clients would go on from the server's steps alone, which are not all of what moves.
            text = f"{model} is not followed by its steps; choose another codec"
            raise ConfigError(f"{where}{key} = {codec.name!r}: {text}")


def _check_alike(split: SplitConfig, tiers: tuple[Tier, ...]) -> None:
    """Refuse what would have clients of one far side differ."""
    where = f"split.mode = {split.mode!r}"
    if split.most_bottom > split.bottom:
        text = f"split.most_bottom = {split.most_bottom}: its clients are cut alike"
        raise ConfigError(f"{where}, {text}; v1 allows cuts of their own")
    for tier in tiers:
        if tier.bottom not in (None, split.bottom):
            text = f"tiers.{tier.name}.bottom = {tier.bottom}: its clients are cut alike"
            raise ConfigError(f"{where}, {text}; v1 allows cuts of their own")
        for name in ("learner", "codec", "train", "local"):
            if getattr(tier, name) is not None:
                text = f"tiers.{tier.name}.{name}: its clients do the same work; v1 allows other"
                raise ConfigError(f"{where}, {text}")


def cut_model(job: Job, model: CohortModel) -> tuple[FusedModel, Cut]:
    """The model of a split job, and what of it is far away for a client that is told nothing else.

    Raises:
        ConfigError: the model has no blocks to cut between, or too few of them; or what trains
            lies far away, where nothing may.
    """
    split = job.split
    if not isinstance(model, FusedModel):
        text = "only models of the fused engine can be cut"
        raise ConfigError(f"split.mode = {split.mode!r}: {text}")
    cut = cut_of(split, model.depth)
    if split.most_bottom:
        cut_of(split, model.depth, split.most_bottom, "split.most_bottom")
    own = {f"tiers.{t.name}.bottom": t.bottom for t in job.tiers if t.bottom is not None}
    for name, bottom in own.items():
        cut_of(split, model.depth, bottom, name)
    if split.mode == "frozen":
        check_frozen(job, model, replace(cut, first=min((cut.first, *own.values()))))
    return model, cut
