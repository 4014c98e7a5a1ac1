"""What clients keep for themselves, and send back and get less than all: looked at beforehand."""

from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.job import Job, Stage
from fedloom.core.layout import NONE, Layout
from fedloom.core.registry import create
from fedloom.core.work import Selectors

__all__ = ["check_keeping", "kept_tensors"]

_PLAIN = Selectors()


def check_keeping(job: Job, layout: Layout) -> None:
    """Find selectors of a stage that name nothing, contradict each other, or that nobody follows.

    Raises:
        ConfigError: a pattern matches no tensor, what is kept does not train, nothing is left to
            send, stages keep different tensors, or learner or split model can keep none.
    """
    for stage in job.stages:
        for name in ("train", "up", "down", "keep"):
            try:
                layout.select(getattr(stage, name))
            except LayoutError as error:
                raise ConfigError(f"{name} of the stage {stage.name!r}: {error}") from None
        for where, selectors in _kinds(job, stage):
            _check_kept(f"{where} of the stage {stage.name!r}", selectors, layout)
        _check_ways(job, stage)
    kept_tensors(job, layout)


def kept_tensors(job: Job, layout: Layout) -> Layout:
    """The tensors that clients keep, in all stages that keep any.

    Raises:
        ConfigError: two stages keep different ones.
    """
    keeping = [stage for stage in job.stages if stage.keep != NONE]
    found = [layout.select(stage.keep) for stage in keeping]
    for stage, kept in zip(keeping, found, strict=True):
        if kept != found[0]:
            text = f"other tensors than the stage {keeping[0].name!r} keeps; expected the same"
            raise ConfigError(f"keep of the stage {stage.name!r}: {list(stage.keep)}: {text}")
    return found[0] if found else Layout(())


def _kinds(job: Job, stage: Stage) -> list[tuple[str, Selectors]]:
    """What each kind of device is asked for, and where that stands."""
    plain = stage.selectors
    own = [(f"tiers.{t.name}.train", t.train) for t in job.tiers if t.train is not None]
    others = [(name, Selectors(s, plain.up, plain.down, plain.keep)) for name, s in own]
    return [("train", plain), *others]


def _check_kept(where: str, selectors: Selectors, layout: Layout) -> None:
    try:
        selectors.kept(layout)
        left = selectors.sent(layout)
    except LayoutError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not left.specs:
        text = f"up = {list(selectors.up)}, keep = {list(selectors.keep)}"
        raise ConfigError(f"{where}: {text}: nothing is left to send to the server")


def _check_ways(job: Job, stage: Stage) -> None:
    """Refuse learners and models in which tensors do not have ways of their own."""
    asked = stage.selectors
    if (asked.up, asked.down, asked.keep) == (_PLAIN.up, _PLAIN.down, _PLAIN.keep):
        return
    name = next(n for n in ("keep", "up", "down") if getattr(asked, n) != getattr(_PLAIN, n))
    where = f"{name} = {list(getattr(asked, name))} of the stage {stage.name!r}"
    if job.split.mode != "none":
        text = f"a split model (split.mode = {job.split.mode!r}) is trained, sent and shared whole"
        raise ConfigError(f"{where}: {text}")
    own = {f"tiers.{t.name}.learner": t.learner for t in job.tiers if t.learner is not None}
    for key, learner in {"learner": job.learner, **own}.items():
        if not getattr(create("learners", learner), "keeps", False):
            text = f"{key} = {learner.name!r} moves all tensors alike; 'backprop' does not"
            raise ConfigError(f"{where}: {text}")
    codecs = {f"tiers.{t.name}.codec": t.codec for t in job.tiers if t.codec is not None}
    for key, codec in {"codec_up": job.codec_up, **codecs}.items():
        if getattr(create("codecs", codec), "sends_steps", False):
            text = f"{key} = {codec.name!r} has clients follow all of the model by its steps"
            raise ConfigError(f"{where}: {text}")
