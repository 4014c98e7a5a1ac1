"""Which examples a client goes through in its round, batch by batch. Nothing here loads torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedloom.core.seeds import stream
from fedloom.core.types import LocalWork
from fedloom.tuning.learning import Assignment

__all__ = ["local_batches"]


def local_batches(assignment: Assignment, work: LocalWork) -> Iterator[NDArray[np.int64]]:
    """The batches of one client's round: epochs in random order, the last batch of each shorter."""
    number = assignment.batches or assignment.round
    draw = stream(assignment.seed, "order", round=number, client=assignment.client)
    rows = assignment.rows
    if work.max_examples and len(rows) > work.max_examples:
        rows = rows[draw.permutation(len(rows))[: work.max_examples]]
    per_epoch = -(-len(rows) // work.batch_size)
    for step in range(work.step_count(len(rows))):
        if step % per_epoch == 0:
            shuffled = rows[draw.permutation(len(rows))]
        start = step % per_epoch * work.batch_size
        yield shuffled[start : start + work.batch_size]
