"""Who holds which rows: a few bytes a client, or none at all."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.core.seeds import stream

__all__ = ["DrawnPartition", "Partition", "StoredPartition"]

Rows = NDArray[np.int64]


class Partition(Protocol):
    """Clients, numbered from 0, and their rows. No client is empty."""

    @property
    def empty(self) -> int:
        """Clients that the rule left without rows, and that are therefore not here."""
        ...

    @property
    def sizes(self) -> Rows:
        """int64 ``[C]``: how many rows each client has."""
        ...

    def __len__(self) -> int: ...

    def size_of(self, client: int) -> int:
        """How many rows a client has."""
        ...

    def name_of(self, client: int) -> str:
        """The name of a client."""
        ...

    def index_of(self, name: str) -> int:
        """The number of the client of that name; `KeyError` where there is none."""
        ...

    def rows_of(self, client: int) -> Rows:
        """int64, the rows of a client among the training examples."""
        ...


@dataclass(frozen=True, eq=False)
class StoredPartition:
    """Every row belongs to one client: 8 bytes a row and 8 a client.

    Attributes:
        rows: int64 ``[N]``, all rows, client by client.
        starts: int64 ``[C + 1]``: client i has ``rows[starts[i] : starts[i + 1]]``.
        names: names of the clients; empty where they are only numbered.
        empty: clients left out because they have no rows.
    """

    rows: Rows
    starts: Rows
    names: tuple[str, ...] = ()
    empty: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> Rows:
        """int64 ``[C]``: rows of each client."""
        return np.diff(self.starts)

    def size_of(self, client: int) -> int:
        """How many rows a client has."""
        return int(self.starts[client + 1] - self.starts[client])

    def name_of(self, client: int) -> str:
        """The name of a client: its own, or its number."""
        return self.names[client] if self.names else _number_name(client)

    def index_of(self, name: str) -> int:
        """The number of the client of that name."""
        return self._index[name] if self.names else _name_number(name, len(self))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: client for client, name in enumerate(self.names)}

    def rows_of(self, client: int) -> Rows:
        """int64, the rows of a client."""
        return self.rows[self.starts[client] : self.starts[client + 1]]


@dataclass(frozen=True)
class DrawnPartition:
    """More clients than rows: each client's rows are drawn anew from its number when asked for.

    Clients share rows; one client's rows are different and ascending. Costs nothing per client.

    Attributes:
        count: rows to draw from.
        clients: how many clients there are.
        examples: rows of each client.
        seed: of the draws.
        empty: clients without rows: none.
    """

    count: int
    clients: int
    examples: int
    seed: int
    empty: int = 0

    def __len__(self) -> int:
        return self.clients

    @property
    def sizes(self) -> Rows:
        """int64 ``[C]``, one number seen C times: it takes no memory per client."""
        return np.broadcast_to(np.int64(self.examples), self.clients)

    def size_of(self, client: int) -> int:
        """How many rows a client has: the same for all."""
        return self.examples

    def name_of(self, client: int) -> str:
        """The number of a client as a name."""
        return _number_name(client)

    def index_of(self, name: str) -> int:
        """The number of the client of that name."""
        return _name_number(name, self.clients)

    def rows_of(self, client: int) -> Rows:
        """int64, the rows of a client."""
        key = stream(self.seed, "partition/draw", client=str(client))
        return key.choose(self.count, self.examples)


def _number_name(client: int) -> str:
    return f"client-{client}"


def _name_number(name: str, clients: int) -> int:
    number = name.removeprefix("client-")
    if not number.isdecimal() or int(number) >= clients or _number_name(int(number)) != name:
        raise KeyError(name)
    return int(number)
