"""Which updates of a round can be used: asked for, of this round, finite, of the model's tensors.

What a client sends is not trusted; whatever is wrong with it, the round goes on without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import numpy as np

from fedloom.codecs.base import Codec
from fedloom.core.errors import CodecError, LayoutError, UpdateRefusedError
from fedloom.core.layout import Layout
from fedloom.core.ranks import RANK, largest_rank, of_rank
from fedloom.core.registry import create
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Delta, Payload, Selectors

__all__ = ["Admission", "Decode", "Travels", "everything"]

Decode: TypeAlias = Callable[[Payload, Layout], Delta]
Travels: TypeAlias = Callable[[ClientTask, Layout], Layout]
"""Which of the tensors that a task's client sends back it holds at all."""


def everything(task: ClientTask, layout: Layout) -> Layout:
    """Clients hold the whole model."""
    return layout


@dataclass(eq=False)
class Admission:
    """The door of one round.

    Attributes:
        tasks: who was asked for what.
        layout: the model's layout.
        decode: a payload, and the layout of what its client was asked to send, into a delta.
        travels: which of what a client sends back it holds; all but over a split model.
        closed: the clients whose update is counted; no second one of theirs is.
        sent: what clients with given selectors, a given cut and rank are to send.
        prunes: whether clients may send less of the adapter's rank than they were given.
    """

    tasks: Mapping[ClientId, ClientTask]
    layout: Layout
    decode: Decode
    travels: Travels = everything
    closed: set[ClientId] = field(default_factory=set)
    sent: dict[tuple[Selectors, int | None, int | None], Layout] = field(default_factory=dict)
    prunes: bool = False

    def admit(self, update: ClientUpdate) -> ClientUpdate:
        """The update with its delta decoded, if it can be used.

        Raises:
            UpdateRefusedError: it cannot; the message is the reason.
        """
        task = self.tasks.get(update.client)
        if task is None:
            raise UpdateRefusedError("no task was given to this client", code="ticket-unknown")
        if update.round != task.round:
            text = f"of round {update.round}; this is round {task.round}"
            raise UpdateRefusedError(text, code="round-over")
        if update.client in self.closed:
            text = "an update of this client is already counted"
            raise UpdateRefusedError(text, code="duplicate")
        rank = self._rank(update, task)
        delta = self._delta(update, task, rank)
        if update.num_examples <= 0:
            text = f"num_examples = {update.num_examples}: above 0 is allowed"
            raise UpdateRefusedError(text, code="weight")
        try:
            of_rank(self.layout, rank).spans(delta.whole)
        except LayoutError as error:
            text = f"not the model's tensors: {error}"
            raise UpdateRefusedError(text, code="layout") from None
        if delta.steps is not None and delta.steps.origin is None:
            own = delta.steps.bound(task.seed, round=task.round, client=task.client)
            delta = replace(delta, steps=own)
        if not np.isfinite(delta.vector).all():
            raise UpdateRefusedError("the delta is not finite", code="not-finite")
        return replace(update, payload=None, delta=delta, work=task.work)

    def close(self, client: ClientId) -> None:
        """Refuse whatever else `client` sends in this round."""
        self.closed.add(client)

    def _rank(self, update: ClientUpdate, task: ClientTask) -> int | None:
        """Of the adapter, what a client says that it has come to; else what it was given."""
        said = update.metrics.get(RANK)
        if not self.prunes or said is None:
            return task.rank
        most = largest_rank(self.layout) if task.rank is None else task.rank
        if said not in range(1, most + 1):
            text = f"rank = {said:g}: a whole number from 1 to {most} is allowed"
            raise UpdateRefusedError(text, code="layout")
        return int(said)

    def _delta(self, update: ClientUpdate, task: ClientTask, rank: int | None) -> Delta:
        if update.delta is not None:
            return update.delta
        if update.payload is None:
            measured = ", ".join(f"{name} = {value}" for name, value in update.metrics.items())
            text = f"the client sent no delta; it reports {measured or 'nothing'}"
            raise UpdateRefusedError(text, code="no-delta")
        try:
            return self._decode(task)(update.payload, self._sent(task, rank))
        # Any error: a codec may come from anyone, and what it reads comes from a client.
        except Exception as error:
            text = f"the payload cannot be decoded: {type(error).__name__}: {error}"
            code = error.code if isinstance(error, CodecError) else "codec"
            raise UpdateRefusedError(text, code=code) from error

    def _decode(self, task: ClientTask) -> Decode:
        """The job's codec, or the task's own."""
        if task.codec is None:
            return self.decode
        return cast(Codec, create("codecs", task.codec)).decode

    def _sent(self, task: ClientTask, rank: int | None) -> Layout:
        alike = task.selectors, task.bottom, rank
        if alike not in self.sent:
            asked = of_rank(task.selectors.sent(self.layout), rank)
            self.sent[alike] = self.travels(task, asked)
        return self.sent[alike]
