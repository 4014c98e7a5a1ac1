"""Which clients of a simulation attack, and what becomes of their labels and updates."""

from collections.abc import AsyncIterator, Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from fedloom.codecs.base import Codec
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.ranks import RANK, cut_to, of_rank, widened
from fedloom.core.registry import create
from fedloom.core.seeds import derive, stream
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Delta, Params, Refusal
from fedloom.server.round import Dispatch
from fedloom.simulation.attacks import Attack, Spread
from fedloom.simulation.holdings import Partition, StoredPartition
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.tuning.aggregating import deals_learners
from fedloom.tuning.data import Corpus

__all__ = ["Attackers", "attacked", "attackers_of", "poisoned"]


@dataclass(frozen=True)
class Attackers:
    """Who attacks, and how.

    Attributes:
        attack: what they do.
        names: their ids.
    """

    attack: Attack
    names: Set[ClientId]


def attackers_of(job: Job, partition: Partition) -> Attackers:
    """The clients that attack, chosen by the run's seed; whom a strategy trusts is not among them.

    Raises:
        ConfigError: no such attack, or one that does not go with the job.
    """
    attack = cast(Attack, create("attacks", job.attack))
    count = attack.clients or round(attack.share * len(partition))
    if not count:
        return Attackers(attack, frozenset())
    where = f"attack = {job.attack.name!r}"
    if count > len(partition):
        raise ConfigError(f"{where}: clients = {count}; there are {len(partition)}")
    if not attack.poisons:
        _check_travels(job, where)
    trusted = {stage.strategy.options.get("root") for stage in job.stages}
    order = stream(job.seed, "attackers").permutation(len(partition))
    names = (partition.name_of(int(index)) for index in order)
    chosen = [name for _, name in zip(range(count + len(trusted)), names, strict=False)]
    honest = [name for name in chosen if name not in trusted]
    return Attackers(attack, frozenset(honest[:count]))


def poisoned(corpus: Corpus, partition: Partition, attackers: Attackers) -> Corpus:
    """The corpus with the labels of attackers changed, where their attack does that.

    Raises:
        ConfigError: the examples have no labels, or clients share examples.
    """
    if not attackers.attack.poisons or not attackers.names:
        return corpus
    labels = corpus.train.labels
    if labels is None:
        raise ConfigError("attack = 'label-flip': the examples of this task have no label")
    if not isinstance(partition, StoredPartition):
        text = "clients draw their examples, and share some; partition = 'natural' deals each once"
        raise ConfigError(f"attack = 'label-flip': {text}")
    changed = labels.copy()
    for name in sorted(attackers.names):
        own = partition.rows_of(partition.index_of(name))
        known = own[labels[own] >= 0]
        changed[known] = len(corpus.classes) - 1 - labels[known]
    return replace(corpus, train=corpus.train.labelled(changed))


def attacked(
    dispatch: Dispatch,
    attackers: Attackers,
    layout: Layout,
    codec_of: Callable[[ClientTask], Codec],
) -> Dispatch:
    """A dispatch whose attackers send what their attack makes of what they learned.

    Args:
        dispatch: of a round.
        attackers: who attacks.
        layout: the model's.
        codec_of: how a task's update travels.
    """
    attack, names = attackers.attack, attackers.names
    if attack.poisons or not names:
        return dispatch

    async def forging(
        tasks: Mapping[ClientId, ClientTask],
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        waiting: list[ClientUpdate] = []
        learned = HeldCohort() if attack.colludes else None
        async for update in dispatch(tasks):
            if isinstance(update, Refusal) or update.client not in names or not update.payload:
                yield update
                continue
            task = tasks[update.client]
            sent = task.selectors.sent(layout)
            part = of_rank(sent, _rank(update, task))
            delta = codec_of(task).decode(update.payload, part)
            if learned is None:
                yield _forged(attack, update, delta, codec_of(task), task)
            else:
                learned.add(replace(update, payload=None, delta=_whole(delta.dense(), sent)))
                waiting.append(update)
        if learned is None:
            return
        parts = {own.client: own.layout for own in learned.updates}
        known = _spread(learned, layout, len(tasks)) if waiting else None
        for update in waiting:
            task, part = tasks[update.client], parts[update.client]
            spread = known.of(layout, part) if known is not None else None
            delta = Delta(part, np.zeros(part.size, dtype=np.float32))
            yield _forged(attack, update, delta, codec_of(task), task, spread)

    return forging


def _forged(
    attack: Attack,
    update: ClientUpdate,
    delta: Delta,
    codec: Codec,
    task: ClientTask,
    spread: Spread | None = None,
) -> ClientUpdate:
    noise = stream(task.seed, "attack", round=task.round, client=task.client)
    forged = Delta(delta.layout, attack.forge(delta.vector, noise, spread))
    forged = cut_to(forged, _rank(update, task))
    seed = derive(task.seed, "codec", round=task.round, client=task.client)
    payload = codec.encode(forged, seed=seed % 2**63)
    assert update.payload is not None
    up = update.cost.bytes_up - update.payload.nbytes + payload.nbytes
    return replace(update, payload=payload, cost=replace(update.cost, bytes_up=up))


def _whole(delta: Delta, sent: Layout) -> Delta:
    """A change of some tensors with zeros beyond its client's rank."""
    layout = Layout(tuple(spec for spec in sent if spec.name in delta.layout))
    return Delta(layout, widened(Params(delta.layout, delta.vector), layout).vector)


def _rank(update: ClientUpdate, task: ClientTask) -> int | None:
    """Of the adapter, what an update has."""
    said = update.metrics.get(RANK, task.rank)
    return None if said is None else int(said)


def _spread(learned: HeldCohort, layout: Layout, clients: int) -> Spread:
    """What attackers learned of each tensor: those of them who have it."""
    mean = np.zeros(layout.size, dtype=np.float32)
    deviation = np.zeros_like(mean)
    for block in learned.blocks(layout):
        if not block.present.any():
            continue
        rows = block.rows[block.present].astype(np.float64)
        mean[block.span], deviation[block.span] = rows.mean(axis=0), rows.std(axis=0)
    return Spread(mean, deviation, clients, len(learned))


def _check_travels(job: Job, where: str) -> None:
    """Refuse to forge what is not sent number by number."""
    if job.split.mode != "none":
        text = "updates of a split model are not forged; 'label-flip' is possible"
        raise ConfigError(f"{where}: split.mode = {job.split.mode!r}: {text}")
    steps = "steps along known directions, which are not forged"
    for stage in job.stages:
        if deals_learners(create("strategies", stage.strategy)):
            text = f"strategy {stage.strategy.name!r}: its clients send {steps}"
            raise ConfigError(f"{where}: {text}")
    codecs = [job.up(index) for index in range(len(job.stages))]
    for component in (*codecs, *(tier.codec for tier in job.tiers if tier.codec)):
        if getattr(create("codecs", component), "sends_steps", False):
            raise ConfigError(f"{where}: codec {component.name!r}: it sends {steps}")
