"""From a job to what the server needs of it: the first model, its files, and a judge of models."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.backbones.files import is_wanted
from fedloom.backbones.portion import write_portion
from fedloom.core.cuts import CutTable, widest
from fedloom.core.errors import ConfigError
from fedloom.core.exposure import exposed
from fedloom.core.job import Job
from fedloom.core.layout import ALL, Selector
from fedloom.core.registry import create
from fedloom.core.types import Params
from fedloom.server.course import Judge
from fedloom.server.plan import Finished, Plan
from fedloom.server.split_plan import SplitPlan
from fedloom.tuning.activations import Activations
from fedloom.tuning.aggregating import inexact
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.capacity import choose_device, measure_capacity
from fedloom.tuning.cut_needs import cut_table, told
from fedloom.tuning.data import Corpus, load_examples
from fedloom.tuning.evaluate import Evaluator
from fedloom.tuning.examples import Examples
from fedloom.tuning.export import export_adapter
from fedloom.tuning.plug_in import Whole, whole_of
from fedloom.tuning.prepare import check_names, check_selectors, dtype_of, folder_of
from fedloom.tuning.ranking import prunes
from fedloom.tuning.reading import reading_of
from fedloom.tuning.split_checks import check_split, cut_model

__all__ = ["plan_of"]


def plan_of(job: Job, note: Callable[[str], None]) -> Plan:
    """Load what the server needs: the model, and its own data where the job names some.

    Args:
        job: the job; without ``data.path`` the server evaluates nothing itself.
        note: told of choices made.

    Raises:
        FedloomError: something that the job names is not there or does not fit.
    """
    check_split(job)
    _check_live_split(job)
    _check_branches(job)
    _check_attack(job)
    check_names(job)
    keep_large_blocks()
    device = choose_device(job.run.device)
    folder = folder_of(job.backbone, device, note)
    corpus = _corpus(job, folder)
    classes = corpus.classes if corpus else job.data.classes
    if job.backbone.task != "causal-lm" and not classes:
        text = "data.classes = []: a server without data.path must be told the classes"
        raise ConfigError(text)
    if job.data.labels:
        note("data.labels is of simulations: the rows of devices say which of them have a label")
    dtype = dtype_of(job.backbone, device, note)
    model = model_of(job, folder, classes, dtype=dtype, device=device)
    _check_judged(job, known=corpus is not None)
    check_selectors(job, model.layout)
    for line in inexact(job, model.layout):
        note(line)
    split, cuts = _split(job, model, note)
    files = _files(folder if split is None else _home_files(folder, job, split))
    start = model.initial(job.seed)
    whole = None
    if job.backbone.emulator.wanted:
        whole = partial(whole_of, job, folder, classes, dtype=dtype, device=device)
    if corpus is None:
        finish = _Finish(model, classes, whole)
        return Plan(job, start, classes, files, None, finish, cuts, split, prunes(job))
    capacity = measure_capacity(model, device, workers=job.run.workers, memory_gb=job.run.memory_gb)
    memory, disk = (int(gb * 2**30) for gb in (job.run.cache_gb, job.run.cache_disk_gb))
    cache = Path(job.server.directory) / "cache"
    activations = Activations(model, memory, disk, cache)
    curve = corpus.curve(job.evaluate.split)

    def judge_on(train: Selector, examples: Examples) -> Judge:
        judge = Evaluator(activations.session, train, examples, workers=capacity.workers)
        return lambda model: judge(model).metrics

    def judging(index: int, params: Params) -> Judge:
        return judge_on(job.stages[index].train, curve)

    def test(params: Params, whole: Whole | None) -> Finished:
        found = whole.judged(params, corpus.test, capacity.workers) if whole else {}
        return Finished(judge_on(ALL, corpus.test)(params), found)

    finish = _Finish(model, classes, whole, test)
    return Plan(job, start, classes, files, judging, finish, cuts, split, prunes(job))


def _check_attack(job: Job) -> None:
    if job.attack.name != "none":
        text = "only simulated clients attack; leave the key out"
        raise ConfigError(f"attack = {job.attack.name!r}: {text}")


def _check_live_split(job: Job) -> None:
    """Refuse what a split model can only do in a simulation."""
    split, where = job.split, f"split.mode = {job.split.mode!r}"
    if split.mode == "none":
        return
    if job.server.evaluate_clients:
        text = "clients hold a part of the model, and cannot evaluate it"
        raise ConfigError(f"server.evaluate_clients = {job.server.evaluate_clients}: {text}")
    if split.mode == "frozen" and not split.stages:
        raise ConfigError(f"split.stages = []: {where} needs stages that serve the far blocks")
    most = max(stage.clients_per_round for stage in job.stages)
    if split.mode == "sequential" and most > 1:
        text = "live clients take turns by rounds of one client each: expected 1"
        raise ConfigError(f"clients_per_round = {most}: {where}: {text}")


def _check_branches(job: Job) -> None:
    """Refuse strategies whose clients start from different models, where the model is split."""
    for stage in job.stages:
        branches = hasattr(create("strategies", stage.strategy), "branches")
        if branches and job.split.mode != "none":
            name, text = stage.strategy.name, "clients of a split model start from the same one"
            raise ConfigError(f"strategy = {name!r}: split.mode = {job.split.mode!r}: {text}")


def _split(
    job: Job, model: CohortModel, note: Callable[[str], None]
) -> tuple[SplitPlan | None, CutTable | None]:
    """How a job is split, and what each number of blocks at home needs."""
    if job.split.mode == "none":
        return None, None
    fused, cut = cut_model(job, model)
    cuts, most = cut_table(job, fused, cut), widest(job.split, job.tiers)
    for text in (*told(job, cuts), *exposed(job.split)):
        note(text)
    return SplitPlan(fused, cut, job.split, most, keep=job.server.longest), cuts


class _Finish:
    """Saves the last model's adapter and evaluates it.

    Where devices have an emulator, it is the whole model's, which is loaded now.
    """

    def __init__(
        self,
        model: CohortModel,
        classes: tuple[str, ...],
        whole: Callable[[], Whole] | None,
        test: Callable[[Params, Whole | None], Finished] | None = None,
    ) -> None:
        self._model, self._classes, self._whole, self._test = model, classes, whole, test

    def __call__(self, params: Params, folder: Path) -> Finished:
        whole = self._whole() if self._whole else None
        if whole:
            whole.export(params, folder)
        else:
            export_adapter(self._model, params, folder, classes=self._classes)
        return self._test(params, whole) if self._test else Finished()


def _check_judged(job: Job, *, known: bool) -> None:
    """Find a stage that is to end, or to choose, by evaluations that nobody makes."""
    for stage in job.stages:
        if hasattr(create("strategies", stage.strategy), "candidates") and not known:
            text = "the server judges its models, and needs data.path"
            raise ConfigError(f"strategy = {stage.strategy.name!r}: {text}")
        if stage.patience and not known and not job.server.evaluate_clients:
            text = f"patience = {stage.patience} in the stage {stage.name!r}: 0, or data.path"
            raise ConfigError(f"{text} or server.evaluate_clients, so that the model is evaluated")


def _corpus(job: Job, folder: Path) -> Corpus | None:
    if not job.data.path:
        return None
    corpus = load_examples(job.data, reading_of(job.backbone, folder), seed=job.seed)
    corpus.check_test(job.data.path)
    return corpus


def _home_files(folder: Path, job: Job, split: SplitPlan) -> Path:
    """A folder with those blocks of a backbone that clients hold, among the server's state."""
    what = "\n".join((split.model.backbone.digest, *sorted(split.held)))
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    return write_portion(
        folder, Path(job.server.directory).expanduser() / "home" / name, split.held
    )


def _files(folder: Path) -> Mapping[str, Path]:
    """The files of a backbone that a device needs, by name."""
    found = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and is_wanted(path.name) and not path.name.startswith(".")
    }
    if not found:
        raise ConfigError(f"{folder}: no files to give to devices")
    return found
