"""Federated evaluation: clients evaluate the global model on examples that stay with them."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from fedloom.core.types import Client, ClientTask, Metrics
from fedloom.server.board import Arrival, Board, Event, GaveUp, Offer
from fedloom.server.failpoints import reach
from fedloom.server.live_round import Stopped, order_of
from fedloom.server.models import Models
from fedloom.server.records import Ticket
from fedloom.server.tally import is_measured
from fedloom.server.tickets import new_id

__all__ = ["evaluate_on_clients"]


def evaluate_on_clients(
    board: Board,
    clients: Sequence[Client],
    task: tuple[ClientTask, int],
    models: Models,
    *,
    seconds: float,
) -> Metrics:
    """Means over the clients that answer, weighted by their examples, as ``clients_NAME``.

    Nothing of it is kept on the disk: what a crash takes is asked again.

    Args:
        board: where the clients find their offers.
        clients: who is asked.
        task: what is asked of each, and the index of the stage.
        models: what they evaluate.
        seconds: how long they have.

    Raises:
        Stopped: the server is told to end meanwhile.
    """
    what, stage = task
    content = models.content
    ends = time.monotonic() + seconds
    tickets = [Ticket(new_id(), what.round, c.id, "evaluate") for c in clients]
    orders = [order_of(replace(what, client=ticket.client), stage) for ticket in tickets]
    board.offer(
        Offer(ticket, order, content.sha256, content.size, ends, 0, models)
        for ticket, order in zip(tickets, orders, strict=True)
    )
    waiting = {ticket.id for ticket in tickets}
    found: list[tuple[int, Metrics]] = []
    while waiting and (left := ends - time.monotonic()) > 0:
        event = board.next(left)
        if event is None or not _answers(event, waiting):
            continue
        if isinstance(event, Arrival) and event.update is not None:
            found.append((event.update.num_examples, event.update.metrics))
    board.withdraw([ticket.client for ticket in tickets])
    reach("clients-evaluated")
    return _means(found)


def _answers(event: Event, waiting: set[str]) -> bool:
    """Whether an event answers one of the tickets, which is then done with."""
    if not isinstance(event, Arrival | GaveUp):
        raise Stopped
    answers = event.ticket.id in waiting
    waiting.discard(event.ticket.id)
    return answers


def _means(found: Sequence[tuple[int, Metrics]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for name in sorted({name for _, metrics in found for name in metrics}):
        pairs = [(n, m[name]) for n, m in found if n > 0 and is_measured(m.get(name, math.nan))]
        if pairs:
            total = math.fsum(n * value for n, value in pairs)
            means[f"clients_{name}"] = total / sum(n for n, _ in pairs)
    return means
