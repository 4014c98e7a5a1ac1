import threading
import time
from collections.abc import Callable, Mapping

import pytest
from small_server import models_of

from fedloom.core.types import Client, ClientTask, ClientUpdate
from fedloom.server.board import Arrival, Board, Event, GaveUp, Offer, Stopping
from fedloom.server.client_evaluation import evaluate_on_clients
from fedloom.server.live_round import Stopped
from fedloom.server.records import Ticket

CLIENTS = [Client("ann", 1), Client("bob", 3), Client("cy", 9)]


def arrived(examples: int, **metrics: float) -> Callable[[Offer], Event]:
    def event(offer: Offer) -> Event:
        update = ClientUpdate(offer.ticket.client, 2, examples, metrics=metrics)
        return Arrival(offer.ticket, update)

    return event


def evaluated(
    answers: Mapping[str, Callable[[Offer], Event]], seconds: float = 10.0
) -> tuple[dict[str, float], dict[str, Offer]]:
    board, offers = Board(), dict[str, Offer]()

    def answer() -> None:
        until = time.monotonic() + 10
        while len(offers) < len(CLIENTS) and time.monotonic() < until:
            found = {c.id: board.offered(c.id) for c in CLIENTS}
            offers.update({name: offer for name, offer in found.items() if offer})
            time.sleep(0.001)
        for name, event in answers.items():
            board.events.put(event(offers[name]))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        task = ClientTask("", 2, 2), 1
        found = evaluate_on_clients(board, CLIENTS, task, models_of(), seconds=seconds)
    finally:
        thread.join()
    assert not any(board.offered(client.id) for client in CLIENTS)
    return dict(found), offers


def test_means_are_weighted_by_examples() -> None:
    stray = Arrival(Ticket("x" * 32, 2, "ann"), ClientUpdate("ann", 2, 99, metrics={"loss": 9.0}))
    found, offers = evaluated(
        {
            "ann": arrived(1, loss=2.0),
            "bob": lambda _: stray,
            "cy": arrived(3, loss=4.0, accuracy=0.5),
        },
        seconds=0.3,
    )
    assert found == {"clients_loss": 3.5, "clients_accuracy": 0.5}  # (1 * 2 + 3 * 4) / 4
    assert offers["ann"].ticket.kind == "evaluate"
    assert '"client":"ann"' in offers["ann"].order
    assert len({offer.ticket.id for offer in offers.values()}) == 3


def test_numbers_that_are_none_do_not_count() -> None:
    vast = arrived(1, loss=1e308, accuracy=float("nan"), kept=1.0)
    found, _ = evaluated({"ann": vast, "bob": vast, "cy": arrived(0, kept=5.0)})
    assert found == {"clients_kept": 1.0}


def test_who_gives_up_is_not_waited_for() -> None:
    gave_up = {name: lambda offer: GaveUp(offer.ticket, "no") for name in ("ann", "bob", "cy")}
    assert evaluated(gave_up)[0] == {}


def test_it_stops_when_told() -> None:
    with pytest.raises(Stopped):
        evaluated({"ann": lambda _: Stopping()})


def test_nobody_is_asked() -> None:
    task = ClientTask("", 0, 0), 0
    assert evaluate_on_clients(Board(), [], task, models_of(), seconds=60.0) == {}
