"""What is settled before a model is built: names, the backbone's folder, its type, selectors."""

from collections.abc import Callable
from pathlib import Path

import torch

from fedloom.backbones import files
from fedloom.backbones.precision import best_dtype
from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.job import BackboneConfig, Job
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.tuning.agreement import check_agreement, check_moved

__all__ = ["check_names", "check_selectors", "dtype_of", "folder_of"]

Note = Callable[[str], None]


def check_names(job: Job) -> None:
    """Find wrong names and options before anything is read, those of a late stage too.

    Raises:
        ConfigError: a name stands for nothing, an option is unknown or refused, or learner, codec
            and strategy do not go together.
    """
    create("adapters", job.adapter)
    learners = [create("learners", job.learner)]
    for codec in (job.codec_up, job.codec_down):
        create("codecs", codec)
    for tier in job.tiers:
        if tier.learner is not None:
            learners.append(create("learners", tier.learner))
        if tier.codec is not None:
            create("codecs", tier.codec)
    for stage in job.stages:
        create("strategies", stage.strategy)
    check_agreement(job)
    if job.data.unlabelled and not all(getattr(one, "unlabelled", False) for one in learners):
        text = "every learner must have a use for them, as 'pseudo-labels' has"
        raise ConfigError(f"data.unlabelled = true: {text}")


def check_selectors(job: Job, layout: Layout) -> None:
    """Find a stage that trains what is not there before the stages before it are done.

    Raises:
        ConfigError: a pattern matches no tensor, or nothing is left to move along directions.
    """
    for stage in job.stages:
        try:
            layout.select(stage.train)
        except LayoutError as error:
            raise ConfigError(f"train of the stage {stage.name!r}: {error}") from None
    check_moved(job, layout)


def folder_of(backbone: BackboneConfig, note: Note) -> Path:
    """The folder of a backbone, downloaded where it has to be.

    Raises:
        ModelError: there is none of that name.
    """
    told: list[str] = []

    def progress(done: int, total: int) -> None:
        if not told:
            told.append(backbone.name)
            note(f"fetching {backbone.name} ({total / 1e6:.0f} MB), once")

    return files.resolve(backbone.name, progress)


def dtype_of(backbone: BackboneConfig, device: torch.device, note: Note) -> torch.dtype:
    """The type of the frozen weights and activations."""
    if backbone.dtype == "auto":
        dtype = best_dtype(device)
        note(f"backbone in {str(dtype).removeprefix('torch.')}: the faster one here")
        return dtype
    return torch.bfloat16 if backbone.dtype == "bfloat16" else torch.float32
