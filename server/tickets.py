"""Tickets of a round: who holds one, and what becomes of them when others are asked too."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from fedloom.core.errors import TransferError
from fedloom.core.types import Client
from fedloom.server.records import OpenRound, Ticket

__all__ = ["Receipt", "answered", "by_id", "new_id", "widened"]

Receipt: TypeAlias = tuple[int, str]
"""The number of a result, and its SHA-256."""


def new_id() -> str:
    """Return an id that nobody can guess: 32 hex digits."""
    return secrets.token_hex(16)


def by_id(opened: OpenRound | None) -> dict[str, Ticket]:
    """The tickets of a round by id; none where there is no round."""
    return {} if opened is None else {ticket.id: ticket for ticket in opened.tickets.values()}


def widened(
    before: OpenRound, cohort: Sequence[Client], answered: Collection[str], now: float
) -> OpenRound:
    """The round with another cohort: who answered keeps the ticket, everybody else gets a new one.

    Args:
        before: the round as it was.
        cohort: who is asked now.
        answered: ids of tickets that brought a result.
        now: seconds since 1970.
    """
    kept = {c: ticket for c, ticket in before.tickets.items() if ticket.id in answered}
    tickets = {c.id: kept.get(c.id) or Ticket(new_id(), before.number, c.id) for c in cohort}
    return replace(
        before, attempt=before.attempt + 1, opened=now, cohort=tuple(cohort), tickets=tickets
    )


def answered(receipts: Mapping[str, Receipt], id: str, sha256: str) -> int | TransferError | None:
    """What a ticket is answered by already: the number of the same bytes, or that others came."""
    if id not in receipts:
        return None
    seq, written = receipts[id]
    if written == sha256:
        return seq
    return TransferError("another result of this task is written", code="duplicate")
