"""What the server writes down of a live round: tickets, results, and where their bytes lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedloom.core.types import Client, ClientId, Cost

__all__ = ["Entry", "OpenRound", "Place", "Result", "Ticket", "Written"]


@dataclass(frozen=True)
class Ticket:
    """The right of one client to hand in one result.

    Attributes:
        id: 32 hex digits that nobody can guess.
        round: number of the round.
        client: whose it is.
        kind: ``train`` or ``evaluate``.
        attempt: from 1; more where an earlier result was refused.
    """

    id: str
    round: int
    client: ClientId
    kind: str = "train"
    attempt: int = 1


@dataclass(frozen=True)
class Result:
    """What a client says of its payload, before and beside it.

    Attributes:
        size: bytes of the payload; 0 where there is none.
        sha256: of the payload, hex.
        codec: name of the codec that wrote it.
        num_examples: training examples behind it.
        metrics: what the client measured.
        cost: what it cost the client; `bytes_up` is `size`.
    """

    size: int
    sha256: str
    codec: str = ""
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = Cost()


@dataclass(frozen=True)
class Place:
    """Where bytes lie on the disk.

    Attributes:
        segment: name of the file among the segments.
        offset: of the first byte in it.
        length: bytes.
    """

    segment: str
    offset: int
    length: int


@dataclass(frozen=True)
class Written:
    """A result that is on the disk, and therefore acknowledged.

    Attributes:
        seq: its number in the ledger, ascending in the order of acknowledgement.
        ticket: what it answers.
        result: what the client said of it.
        place: where the payload lies.
    """

    seq: int
    ticket: Ticket
    result: Result
    place: Place


@dataclass(frozen=True)
class Entry:
    """A result whose payload is on the disk, about to be written down."""

    ticket: Ticket
    result: Result
    place: Place


@dataclass(frozen=True)
class OpenRound:
    """The round that is under way.

    Attributes:
        number: from 1.
        attempt: from 1; more where too few clients answered and others were asked.
        stage: index of the job's stage.
        cohort: who was asked, in a fixed order.
        tickets: of each of them, to train.
        closed: whether nothing more is taken.
        opened: when it began, in seconds since 1970.
    """

    number: int
    attempt: int
    stage: int
    cohort: tuple[Client, ...]
    tickets: Mapping[ClientId, Ticket]
    closed: bool
    opened: float
