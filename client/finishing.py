"""An update of a worker as it is handed in."""

import hashlib

from fedloom.client.outbox import Finished
from fedloom.core.machine import peak_memory
from fedloom.core.types import ClientUpdate

__all__ = ["finished_of"]


def finished_of(ticket: str, update: ClientUpdate, codec: str) -> tuple[Finished, bytes]:
    """What the outbox keeps of an update, and its bytes; none where training diverged."""
    frame = update.payload.frame if update.payload else b""
    finished = Finished(
        ticket,
        size=len(frame),
        sha256=hashlib.sha256(frame).hexdigest(),
        codec=codec,
        num_examples=update.num_examples,
        metrics=dict(update.metrics),
        flops=update.cost.flops,
        seconds=update.cost.seconds,
        peak_memory=peak_memory(),
        tokens=update.cost.tokens,
        round=update.round,
    )
    return finished, frame
