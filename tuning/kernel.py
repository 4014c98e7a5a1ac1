"""Which engine multiplies with a job's stored weights, by what its learners need of it."""

from pathlib import Path

import torch

from fedloom.backbones.four_bit import asks_four_bit
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.choose import choose, engine_of
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.notes import scheme_in
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.registry import create

__all__ = ["kernel_needs", "kernel_of"]


def kernel_of(job: Job, folder: Path, *, dtype: torch.dtype, device: torch.device) -> Engine:
    """The engine for the weights in a folder; for weights as they are it does not matter.

    Args:
        job: whose learners run.
        folder: of the backbone, as devices have it.
        dtype: of inputs.
        device: where it runs.

    Raises:
        ConfigError: the engine that the job names cannot do what is needed.
    """
    scheme, needs = scheme_in(folder), kernel_needs(job)
    if asks_four_bit(job.backbone) and "jvp_safe" in needs:
        text = "bitsandbytes has no forward-mode derivative, which a learner of this job needs"
        raise ConfigError(f"backbone.engine = 'transformers' with 'nf4': {text}")
    if scheme is None:
        return DEQUANTIZE
    if job.backbone.kernel != "auto":
        return engine_of(job.backbone.kernel, scheme, dtype, needs)
    return choose(scheme, dtype, device, needs)


def kernel_needs(job: Job) -> frozenset[str]:
    """Names of `fedloom.backbones.kernels.base.Capabilities` that the learners of a job need.

    A learner says so by an attribute `kernel_needs`; without one it needs the gradient.
    """
    tiers = (tier.learner for tier in job.tiers if tier.learner is not None)
    learners = [create("learners", component) for component in (job.learner, *tiers)]
    return frozenset(n for each in learners for n in getattr(each, "kernel_needs", ("backward",)))
