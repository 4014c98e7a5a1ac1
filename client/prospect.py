"""What a job would take of this device, before it joins. Loads its engine and the backbone."""

from pathlib import Path
from tempfile import TemporaryDirectory

from fedloom.backbones.files import resolve
from fedloom.backbones.formats import scheme_of
from fedloom.client.holdings import read_holdings
from fedloom.client.manifest import Manifest
from fedloom.client.memory import Budget, allowed, at_rest, bare
from fedloom.client.settings import AUTO, ClientSettings
from fedloom.client.tiers import Fit, chosen, fits
from fedloom.client.which_engine import engine_of
from fedloom.core.errors import ConfigError, FedloomError
from fedloom.core.job import Job
from fedloom.tuning.asking import task_of
from fedloom.tuning.data import Corpus

__all__ = ["prospect"]


def prospect(settings: ClientSettings, job: Job) -> list[tuple[str, str]]:
    """How the device would train for a job; what was looked at, and what was found.

    Args:
        settings: the owner's; its data are read.
        job: the job.
    """
    if job.split.mode != "none" and engine_of(settings) != "onnx":
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
    return _by_onnx(settings, job) if engine_of(settings) == "onnx" else _by_torch(settings, job)


def _by_torch(settings: ClientSettings, job: Job) -> list[Fit]:
    from fedloom.backbones.allocator import keep_few_shapes, keep_large_blocks
    from fedloom.client.ration import Ration
    from fedloom.tuning.build import model_of
    from fedloom.tuning.capacity import choose_device
    from fedloom.tuning.prepare import dtype_of, folder_of

    keep_large_blocks()
    keep_few_shapes()
    device = choose_device(settings.device)
    folder = folder_of(job.backbone, device, print)
    corpus = _holdings(settings, job, folder)
    budget = _budget(settings)
    dtype = dtype_of(job.backbone, device, lambda text: None)
    model = model_of(job, folder, corpus.classes, dtype=dtype, device=device)
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        own = Ration(model, corpus.train, settings, device=device, budget=budget, scratch=place)
        return fits(job, own, model.initial(job.seed), len(corpus.train))


def _by_onnx(settings: ClientSettings, job: Job) -> list[Fit]:
    """The server stores the backbone in fewer bits, which takes torch: here its shapes will do."""
    from fedloom.client.onnx_ration import OnnxRation, check_whole
    from fedloom.tuning.onnx.model import OnnxModel

    check_whole(job)
    if job.backbone.emulator.wanted:
        text = "the engine onnx has no look at a backbone that is yet to be made"
        raise ConfigError(f"backbone.emulator: {text}")
    folder = resolve(job.backbone.name)
    corpus = _holdings(settings, job, folder)
    task = task_of(job.backbone, folder, corpus.classes)
    budget = _budget(settings)
    model = OnnxModel(folder, job.adapter, task, threads=settings.threads)
    stored = scheme_of(job.backbone.quantization) if job.backbone.quantization else None
    own = OnnxRation(model, corpus.train, budget, will_be=stored)
    return fits(job, own, model.initial(job.seed), len(corpus.train))


def _budget(settings: ClientSettings) -> Budget:
    """A device that has joined also holds what it talks with."""
    return Budget(allowed(settings), max(at_rest(), bare(settings)))


def _holdings(settings: ClientSettings, job: Job, folder: Path) -> Corpus:
    corpus = read_holdings(settings.data, Manifest("", job, job.data.classes, "", ()), folder)
    if not len(corpus.train):
        raise ConfigError(f"data = {settings.data!r}: no training examples")
    return corpus
