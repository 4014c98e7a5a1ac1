"""What learner, codec and strategy must agree on, looked at before a run begins."""

from collections.abc import Iterator
from dataclasses import dataclass

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.job import Job, Stage
from fedloom.core.layout import Layout, Selector
from fedloom.core.registry import create
from fedloom.core.types import LocalWork
from fedloom.tuning.learners.plain import check_work

__all__ = ["check_agreement", "check_moved", "check_sent"]


@dataclass(frozen=True)
class Way:
    """How clients of one kind of device train and send in a stage.

    Attributes:
        where: what stands before a field of theirs: nothing, or their tier.
        key: of the codec in the job.
        learner: how they train.
        codec: how they send.
        train: which tensors.
        work: the numbers of local training.
        stage: of the job.
    """

    where: str
    key: str
    learner: Component
    codec: Component
    train: Selector
    work: LocalWork
    stage: Stage


def check_agreement(job: Job) -> None:
    """Find directions that clients would step along and the server would not.

    Raises:
        ConfigError: learner and codec, or learner and strategy, have unlike options, or correct
            clients' drift in different ways.
    """
    for way in _ways(job):
        _check_correction(way)
        _check_answers(way)
        _check_along(way)
        search = getattr(create("learners", way.learner), "search", None)
        if search is None or getattr(search, "send", "") != "scalars":
            continue
        _check_numbers(way)
        directions = search.agreed
        codec = create("codecs", way.codec)
        if getattr(codec, "sends_steps", False):
            theirs = getattr(codec, "directions", directions)
            told = {"scheme": (directions.scheme, theirs.scheme)}
            told["family"] = (directions.family, theirs.family)
            if directions.numbered:
                told["pool"] = (directions.pool, theirs.pool)
            told["bits"] = (search.bits, getattr(codec, "bits", search.bits))
            told["exact"] = (search.exact, getattr(codec, "exact", search.exact))
            for field, (own, other) in told.items():
                _same(way, field, own, other)
        strategy = create("strategies", way.stage.strategy)
        if getattr(strategy, "whole_deltas", False):
            text = f"'tensors'; strategy {way.stage.strategy.name!r} takes whole deltas"
            raise ConfigError(f"{way.where}learner.send = 'scalars': {text}")
        if search.guided and getattr(strategy, "guided", False):
            text = f"strategy {way.stage.strategy.name!r} has clients choose along its guide"
            raise ConfigError(f"{way.where}learner.guided = True: False; {text}")
        guide = bool(getattr(strategy, "guide", 0.0))
        if search.guided != guide and hasattr(strategy, "guide"):
            text = "clients measure along a guide exactly where strategy.guide is above 0"
            raise ConfigError(f"{way.where}learner.guided = {search.guided}: {guide}; {text}")
        known = getattr(strategy, "schemes", ())
        if known and directions.scheme not in known:
            name, allowed = way.stage.strategy.name, " or ".join(known)
            text = f"{way.where}learner.scheme = {directions.scheme!r}: {allowed}"
            raise ConfigError(f"{text}, which strategy {name!r} as it is set can go along")


def check_moved(job: Job, layout: Layout) -> None:
    """Find a kind of device that trains what is not there, or has nothing to move along directions.

    Raises:
        ConfigError: a pattern matches no tensor, or every tensor that trains has an exact gradient.
    """
    for way in _ways(job):
        try:
            trained = layout.select(way.train)
        except LayoutError as error:
            raise ConfigError(f"{way.where}train: {error}") from None
        exactly = getattr(getattr(create("learners", way.learner), "search", None), "exact", None)
        if exactly is None:
            continue
        try:
            exact = set(trained.select(exactly).names)
        except LayoutError:
            continue
        if exact == set(trained.names):
            text = f"{way.where}train = {list(way.train)} in the stage {way.stage.name!r}"
            more = "learner 'backprop' does the same where nothing else trains"
            raise ConfigError(f"{text}: more than learner.exact = {list(exactly)}; {more}")


def check_sent(job: Job, layout: Layout) -> None:
    """Find a codec that says of itself that it cannot send what a stage trains.

    Raises:
        ConfigError: it cannot; the message is the codec's.
    """
    for way in _ways(job):
        check = getattr(create("codecs", way.codec), "check", None)
        if check is None:
            continue
        try:
            check(layout.select(way.train))
        except ConfigError as error:
            where = f"{way.where}{way.key} in the stage {way.stage.name!r}"
            raise ConfigError(f"{where}: {error}") from None


def _check_correction(way: Way) -> None:
    """What clients remember and what the server makes of it are halves of one method."""
    learner, strategy = create("learners", way.learner), create("strategies", way.stage.strategy)
    own, theirs = (getattr(half, "correction", "") for half in (learner, strategy))
    if own != theirs:
        both = f"{own or theirs!r} is a method of both, learner and strategy"
        raise ConfigError(f"{_who(way)}: {both}")


def _check_answers(way: Way) -> None:
    """Clients that only say how good candidates are train nothing where a strategy has none."""
    learner, strategy = create("learners", way.learner), create("strategies", way.stage.strategy)
    if getattr(learner, "answers", False) and not getattr(strategy, "asks", False):
        text = "clients would say how good candidates are, and the strategy has none; 'bbtv2' has"
        raise ConfigError(f"{_who(way)}: {text}")


def _check_along(way: Way) -> None:
    """A learner that sends a point of a subspace, along directions that the codec has to know."""
    along = getattr(create("learners", way.learner), "along", None)
    theirs = getattr(create("codecs", way.codec), "directions", None)
    for field in ("scheme", "family", "pool") if along and theirs else ():
        _same(way, field, getattr(along, field), getattr(theirs, field))


def _who(way: Way) -> str:
    text = f"strategy = {way.stage.strategy.name!r} in the stage {way.stage.name!r}"
    return f"{way.where}learner = {way.learner.name!r}, {text}"


def _check_numbers(way: Way) -> None:
    try:
        check_work(way.work)
    except ConfigError as error:
        raise ConfigError(f"{way.where}{error}") from None


def _same(way: Way, field: str, own: object, other: object) -> None:
    if own != other:
        text = f"{way.where}learner.{field} = {own!r}, {way.key}.{field} = {other!r}"
        raise ConfigError(f"{text}: give both the same")


def _ways(job: Job) -> Iterator[Way]:
    """Every way of training and sending that the job has."""
    for stage in job.stages:
        sent = stage.codec_up or job.codec_up
        if sum(tier.share for tier in job.tiers) < 1 or not job.tiers:
            yield Way("", "codec_up", job.learner, sent, stage.train, stage.local, stage)
        for tier in job.tiers:
            learner, codec = tier.learner or job.learner, tier.codec or sent
            where, key = f"tiers.{tier.name}: ", "codec" if tier.codec else "codec_up"
            work = tier.local or stage.local
            yield Way(where, key, learner, codec, tier.train or stage.train, work, stage)
