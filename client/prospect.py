"""What a job would take of this device, before it joins. Loads torch and the job's backbone."""

from pathlib import Path
from tempfile import TemporaryDirectory

from fedloom.backbones.allocator import keep_few_shapes, keep_large_blocks
from fedloom.client.holdings import read_holdings
from fedloom.client.manifest import Manifest
from fedloom.client.memory import allowed
from fedloom.client.ration import Budget, Ration, at_rest
from fedloom.client.settings import AUTO, ClientSettings
from fedloom.client.tiers import Fit, chosen, fits
from fedloom.core.errors import ConfigError, FedloomError
from fedloom.core.job import Job
from fedloom.tuning.build import model_of
from fedloom.tuning.capacity import choose_device
from fedloom.tuning.prepare import dtype_of, folder_of

__all__ = ["prospect"]


def prospect(settings: ClientSettings, job: Job) -> list[tuple[str, str]]:
    """How the device would train for a job; what was looked at, and what was found.

    Args:
        settings: the owner's; its data are read.
        job: the job.
    """
    if job.split.mode != "none":
        return [(f"job {job.name}", "its model is split: blocks are taken as memory allows")]
    try:
        found = _fits(settings, job)
    except FedloomError as error:
        return [(f"job {job.name}", f"cannot take part: {error}")]
    rows = [(f"tier {fit.tier}" if fit.tier else f"job {job.name}", str(fit)) for fit in found]
    if not job.tiers:
        return rows
    try:
        return [*rows, (f"tier {AUTO}", f"would be {chosen(found)}")]
    except FedloomError as error:
        return [*rows, (f"tier {AUTO}", str(error))]


def _fits(settings: ClientSettings, job: Job) -> list[Fit]:
    keep_large_blocks()
    keep_few_shapes()
    device = choose_device(settings.device)
    folder = folder_of(job.backbone, device, print)
    manifest = Manifest("", job, job.data.classes, "", ())
    corpus = read_holdings(settings.data, manifest, folder)
    if not len(corpus.train):
        raise ConfigError(f"data = {settings.data!r}: no training examples")
    budget = Budget(allowed(settings), at_rest())
    dtype = dtype_of(job.backbone, device, lambda text: None)
    model = model_of(job, folder, corpus.classes, dtype=dtype, device=device)
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        own = Ration(model, corpus.train, settings, device=device, budget=budget, scratch=place)
        return fits(job, own, model.initial(job.seed), len(corpus.train))
