"""What is settled before a model is built: names, the backbone's folder, its type, selectors."""

from collections.abc import Callable
from pathlib import Path

import torch

from fedloom.backbones import files
from fedloom.backbones.emulator import emulator_of
from fedloom.backbones.formats import scheme_of
from fedloom.backbones.four_bit import asks_four_bit
from fedloom.backbones.precision import best_dtype
from fedloom.backbones.quantize import quantized_of
from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig, Job
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.tuning.aggregating import check_strategies, deals_learners
from fedloom.tuning.agreement import check_agreement, check_moved, check_sent
from fedloom.tuning.distill import distilling_of
from fedloom.tuning.keeping import check_keeping
from fedloom.tuning.plug_in import check_emulator
from fedloom.tuning.ranking import check_ranks

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
    useless = not all(getattr(one, "unlabelled", False) for one in learners)
    for stage in job.stages:
        strategy = create("strategies", stage.strategy)
        useless |= deals_learners(strategy)
        if stage.codec_up is not None:
            create("codecs", stage.codec_up)
    check_agreement(job)
    check_emulator(job)
    if job.data.unlabelled and useless:
        text = "every learner must have a use for them, as 'pseudo-labels' has"
        raise ConfigError(f"data.unlabelled = true: {text}")


def check_selectors(job: Job, layout: Layout) -> None:
    """Find a stage that trains what is not there before the stages before it are done.

    Raises:
        ConfigError: a pattern matches no tensor, nothing is left to move along directions or to
            send, a codec cannot send what trains, tensors are kept or ranks dealt that cannot be,
            or a strategy has no use for the adapter.
    """
    check_keeping(job, layout)
    check_moved(job, layout)
    check_sent(job, layout)
    check_ranks(job, layout)
    check_strategies(job, layout)


def folder_of(backbone: BackboneConfig, device: torch.device, note: Note) -> Path:
    """The folder of a backbone, downloaded, made smaller and stored in fewer bits as a job says.

    Args:
        backbone: what the job says of it.
        device: where an emulator is distilled that is not there yet.
        note: told what takes time.

    Raises:
        ModelError: there is none of that name, or no emulator can be made of it.
        ConfigError: the emulator's ends leave nothing between them, or a format's groups do not
            divide a matrix.
        DataError: the text that it is distilled on cannot be read.
    """
    told: list[str] = []

    def progress(done: int, total: int) -> None:
        if not told:
            told.append(backbone.name)
            note(f"fetching {backbone.name} ({total / 1e6:.0f} MB), once")

    folder = files.resolve(backbone.name, progress)
    if backbone.emulator.wanted:
        trained = distilling_of(backbone, folder, device, note)
        folder = emulator_of(folder, backbone.emulator, trained)
    if not backbone.quantization or asks_four_bit(backbone):
        return folder
    text = f"storing {backbone.name} as {backbone.quantization}, once"
    return quantized_of(folder, scheme_of(backbone.quantization), lambda: note(text))


def dtype_of(backbone: BackboneConfig, device: torch.device, note: Note) -> torch.dtype:
    """The type of the frozen weights and activations."""
    if backbone.dtype == "auto":
        dtype = best_dtype(device)
        note(f"backbone in {str(dtype).removeprefix('torch.')}: the faster one here")
        return dtype
    return torch.bfloat16 if backbone.dtype == "bfloat16" else torch.float32
