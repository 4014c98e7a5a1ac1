"""An update of a worker as it is handed in."""

import hashlib

from fedloom.client.outbox import Finished
from fedloom.codecs.base import Codec
from fedloom.codecs.exchange import client_update
from fedloom.core.layout import Layout
from fedloom.core.machine import peak_memory
from fedloom.core.types import ClientTask
from fedloom.tuning.learning import LocalResult

__all__ = ["finished_of"]


def finished_of(
    ticket: str,
    task: ClientTask,
    result: LocalResult,
    codec: Codec,
    *,
    model: Layout,
    received: int,
) -> tuple[Finished, bytes]:
    """What the outbox keeps of an update, and its bytes; none where training diverged.

    Args:
        ticket: whose result it is.
        task: what was asked.
        result: what training gave.
        codec: encodes it.
        model: the tensors of the whole model.
        received: bytes that came down for the task.
    """
    update = client_update(
        task,
        result.layout,
        result.delta,
        codec,
        num_examples=result.num_examples,
        metrics=result.metrics,
        cost=result.cost(received),
        model=model,
        steps=result.steps,
        rank=result.rank,
    )
    frame = update.payload.frame if update.payload else b""
    finished = Finished(
        ticket,
        size=len(frame),
        sha256=hashlib.sha256(frame).hexdigest(),
        codec=codec.name,
        num_examples=update.num_examples,
        metrics=dict(update.metrics),
        flops=update.cost.flops,
        seconds=update.cost.seconds,
        peak_memory=peak_memory(),
        tokens=update.cost.tokens,
        round=update.round,
    )
    return finished, frame
