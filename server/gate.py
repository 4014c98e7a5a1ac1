"""The gate of a live round: what is checked of a result before it is acknowledged.

In this order, each with its own code: the ticket is known, its owner's, of this round and the
newest; the size is the plan's at most; chunks, digest (`uploads`); then here the codec's frame and
layout, finite, norm, weight. A refusal never ends the round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from fedloom.core.devices import Device, depth
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Cost, Payload
from fedloom.server.admission import Admission, Decode, Travels, everything
from fedloom.server.records import Result, Ticket

__all__ = ["Gate", "check_weight"]


def check_weight(num_examples: int, most: int) -> None:
    """Check what a client says is behind its result.

    Raises:
        UpdateRefusedError: nothing, or more than is allowed.
    """
    if not 0 < num_examples <= most:
        raise UpdateRefusedError(f"num_examples = {num_examples}: from 1 to {most}", code="weight")


@dataclass(frozen=True, eq=False)
class Gate:
    """The checks of one round.

    Attributes:
        tasks: who was asked for what.
        layout: the model's layout.
        decode: the codec's, for what clients send.
        bytes_down: what a client received, where its result does not say.
        norm_bound: largest L2 norm of a delta (0: any finite one).
        max_examples: largest weight that a client may claim.
        largest: bytes that a payload may have at most.
        travels: which of what a client sends back it holds; all but over a split model.
        device_of: which device a client has; None where none is modelled.
        examples_of: how many training examples it holds.
        prunes: whether clients may send less of the adapter's rank than they were given.
    """

    tasks: Mapping[ClientId, ClientTask]
    layout: Layout
    decode: Decode
    bytes_down: int
    norm_bound: float
    max_examples: int
    largest: int
    travels: Travels = everything
    device_of: Callable[[ClientId], Device | None] = lambda client: None
    examples_of: Callable[[ClientId], int] = lambda client: 0
    prunes: bool = False

    def size(self, result: Result) -> None:
        """Check what a header declares, before any memory is taken.

        Raises:
            UpdateRefusedError: too large, or a weight that is not allowed.
        """
        if result.size > self.largest:
            text = f"size = {result.size}: at most {self.largest} bytes are asked for"
            raise UpdateRefusedError(text, code="too-large")
        check_weight(result.num_examples, self.max_examples)

    def admit(
        self, ticket: Ticket, result: Result, payload: bytes | bytearray | None
    ) -> ClientUpdate:
        """The update, decoded, if it can be folded.

        Raises:
            UpdateRefusedError: it cannot; message and code say why.
        """
        self.size(result)
        found = self.update(ticket, result, payload)
        assert found.delta is not None
        if self.norm_bound:
            with np.errstate(over="ignore"):  # infinity is above any bound
                norm = float(np.linalg.norm(found.delta.vector))
            if norm > self.norm_bound:
                text = f"norm = {norm:.6g}: at most {self.norm_bound:g}"
                raise UpdateRefusedError(text, code="norm")
        return found

    def update(
        self, ticket: Ticket, result: Result, payload: bytes | bytearray | None
    ) -> ClientUpdate:
        """The update of a result that was let in before: decoded, and its cost completed."""
        down = result.cost.bytes_down or self.bytes_down
        cost = replace(result.cost, bytes_up=result.size, bytes_down=down)
        # A bytearray serves as bytes here: codecs read a frame through a memoryview.
        frame = cast("bytes | None", payload)
        update = ClientUpdate(
            client=ticket.client,
            round=ticket.round,
            num_examples=result.num_examples,
            payload=None if frame is None else Payload(result.codec, frame),
            metrics=result.metrics,
            cost=self._on_device(ticket.client, cost),
            attempt=ticket.attempt,
        )
        own = self.tasks, self.layout, self.decode, self.travels
        return Admission(*own, prunes=self.prunes).admit(update)

    def _on_device(self, client: ClientId, cost: Cost) -> Cost:
        """The cost with what the measured seconds draw, and the seconds that the model says."""
        device, task = self.device_of(client), self.tasks.get(client)
        if device is None or task is None:
            return cost
        trained = self.layout.select(task.selectors.train)
        steps = task.work.step_count(self.examples_of(client))
        modelled = device.spent(cost, steps=steps, blocks=depth(trained, self.layout))
        return replace(device.drawn(cost), modelled_seconds=modelled.modelled_seconds)
