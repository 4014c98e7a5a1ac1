"""What travels in a round: the model down, an update up. The simulator and a device share this."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.codecs.base import Codec
from fedloom.codecs.briefing import with_briefing, without_briefing
from fedloom.core.errors import CodecError
from fedloom.core.layout import SIDE, Layout, Vector
from fedloom.core.ranks import RANK, cut_to, limited, of_rank, widened
from fedloom.core.seeds import derive
from fedloom.core.steps import Steps
from fedloom.core.types import (
    Briefing,
    ClientTask,
    ClientUpdate,
    Cost,
    Delta,
    Metrics,
    Params,
    Payload,
    Selectors,
)

__all__ = ["changed", "client_update", "received", "sent_by", "sent_down", "with_far"]


def changed(stages: Sequence[Selectors], layout: Layout) -> Layout:
    """What goes down: the tensors that a client may not have yet.

    Those that clients of any stage so far send, and so change in the global model, and of them
    those that the present stage sends down; and what the server alone moves. What is kept by
    clients never changes there.

    Args:
        stages: the selectors of each stage so far, the present one last; with none, nothing has
            changed.
        layout: the model's.
    """
    if not stages:
        return Layout(())
    sent, down = sent_by(stages, layout), layout.select(stages[-1].down)
    wanted = {spec.name for spec in down if spec.name in sent}
    return Layout(tuple(spec for spec in layout if spec.name in wanted or SIDE in spec.tags))


def sent_by(stages: Sequence[Selectors], layout: Layout) -> Layout:
    """The tensors that clients of any of the stages send, and so change in the global model."""
    names = {name for stage in stages for name in stage.sent(layout).names}
    return Layout(tuple(spec for spec in layout if spec.name in names))


def sent_down(
    params: Params,
    codec: Codec,
    part: Layout,
    *,
    version: int,
    briefing: Briefing | None = None,
    rank: int | None = None,
) -> Payload:
    """The global model's exchanged part as clients receive it, and what is sent beside it.

    Args:
        params: the model.
        codec: how it travels.
        part: the tensors that do.
        version: of the model.
        briefing: what is sent beside it.
        rank: of the adapter, what those clients have; None for all of it.
    """
    sent = cut_to(Delta(part, params.layout.gather(params.vector, part)), rank)
    payload = codec.encode(sent, seed=version)
    return Payload(payload.codec, with_briefing(payload.frame, briefing or {}))


def received(
    params: Params, codec: Codec, payload: Payload, part: Layout, *, rank: int | None = None
) -> tuple[Params, Briefing]:
    """`params` with the tensors of `part` as they came down, and what came beside them.

    Args:
        params: what the other tensors are.
        codec: how the model travels.
        payload: every byte that came.
        part: the tensors that did.
        rank: of the adapter, what was sent of it (`sent_down`); the rest is zero.

    Raises:
        CodecError: the payload is cut, corrupt or of another layout.
    """
    frame, briefing = without_briefing(payload.frame)
    cut = of_rank(part, rank)
    arrived = Params(cut, codec.decode(Payload(payload.codec, frame), cut).vector)
    if rank is None:
        return params.having(arrived), briefing
    return limited(params.having(widened(arrived, part)), rank), briefing


def client_update(
    task: ClientTask,
    trained: Layout,
    delta: Vector,
    codec: Codec,
    *,
    num_examples: int,
    metrics: Metrics,
    cost: Cost,
    model: Layout,
    steps: Steps | None = None,
    rank: int | None = None,
) -> ClientUpdate:
    """What a client sends for a task: its delta, encoded, and what it cost.

    A delta that is not finite is not sent: the client reports its failure instead of a model. Nor
    is what the client keeps, or what the task does not send up: the update lacks those tensors,
    which is never the same as a change of zero.

    Args:
        task: what was asked.
        trained: the tensors that were trained.
        delta: local minus global, float32 ``[trained.size]``.
        codec: how updates travel.
        num_examples: training examples behind it.
        metrics: what training measured.
        cost: what it cost so far; the bytes sent are added.
        model: the whole model's tensors, in whose order those that changed are sent.
        steps: what moved along known directions; a codec that does not send such steps sends the
            change that they come to.
        rank: of the adapter, what the client has come to and so sends; ``rank`` among the metrics
            says it. None for the task's.
    """
    asked = task.selectors.sent(model)
    sent = Layout(tuple(spec for spec in trained if spec.name in asked))
    vector = np.asarray(delta) if sent == trained else trained.gather(delta, sent)
    seed = derive(task.seed, "codec", round=task.round, client=task.client)
    delta_sent = Delta(sent, vector, steps)
    if not getattr(codec, "sends_steps", False):
        delta_sent = cut_to(_in_order(delta_sent.dense(), model), rank or task.rank)
    try:
        payload = codec.encode(delta_sent, seed=seed % 2**63)
    except CodecError:
        payload = None
    return ClientUpdate(
        client=task.client,
        round=task.round,
        num_examples=num_examples,
        payload=payload,
        metrics=metrics if rank is None else {**metrics, RANK: float(rank)},
        cost=replace(cost, bytes_up=payload.nbytes if payload else 0),
    )


def with_far(update: ClientUpdate, arrived: Delta, far: Delta | None) -> ClientUpdate:
    """An update of a split model: what came of the client, and what moved on the far side.

    Args:
        update: what the client sent.
        arrived: its delta, decoded: of the tensors at home.
        far: of the others, which do not travel; None where nothing moved there.
    """
    if far is None:
        return replace(update, payload=None, delta=arrived)
    own = arrived.dense()
    layout = Layout.concat((own.layout, far.layout))
    both = Delta(layout, np.concatenate((own.vector, far.vector)))
    return replace(update, payload=None, delta=both)


def _in_order(delta: Delta, model: Layout) -> Delta:
    """A change in the order of the model's tensors, in which the server expects it."""
    part = Layout(tuple(spec for spec in model if spec.name in delta.layout))
    if part == delta.layout:
        return delta
    return Delta(part, delta.layout.gather(delta.vector, part))
