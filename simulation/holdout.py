"""Examples that each client holds back: it does not train on them, and is evaluated on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.seeds import stream
from fedloom.simulation.holdings import Partition

__all__ = ["HeldBack", "rows_to_judge"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldBack:
    """A partition of which every client trains on a part only.

    Attributes:
        whole: the partition.
        share: of its examples that a client holds back, from 0 to 1: at least one, and never all;
            a client of one example holds none back.
        seed: which ones.
    """

    whole: Partition
    share: float
    seed: int

    @property
    def empty(self) -> int:
        """Clients that the rule left without rows."""
        return self.whole.empty

    @property
    def sizes(self) -> Rows:
        """int64 ``[C]``: rows that each client trains on."""
        return self.whole.sizes - self._back(self.whole.sizes)

    def __len__(self) -> int:
        return len(self.whole)

    def size_of(self, client: int) -> int:
        """How many rows a client trains on."""
        size = self.whole.size_of(client)
        return size - int(self._back(np.asarray([size]))[0])

    def name_of(self, client: int) -> str:
        """The name of a client."""
        return self.whole.name_of(client)

    def index_of(self, name: str) -> int:
        """The number of the client of that name; `KeyError` where there is none."""
        return self.whole.index_of(name)

    def rows_of(self, client: int) -> Rows:
        """int64, the rows that a client trains on."""
        rows = self.whole.rows_of(client)
        return rows[~self._chosen(client, len(rows))]

    def held_by(self, client: int) -> Rows:
        """int64, the rows that a client holds back."""
        rows = self.whole.rows_of(client)
        return rows[self._chosen(client, len(rows))]

    def _back(self, sizes: Rows) -> Rows:
        back = np.maximum(np.rint(sizes * self.share).astype(np.int64), 1)
        found: Rows = np.minimum(back, sizes - 1)
        return found

    def _chosen(self, client: int, size: int) -> NDArray[np.bool_]:
        order = stream(self.seed, "hold out", client=self.name_of(client)).permutation(size)
        chosen = np.zeros(size, dtype=np.bool_)
        chosen[order[: int(self._back(np.asarray([size]))[0])]] = True
        return chosen


def rows_to_judge(partition: Partition, client: int) -> Rows:
    """Rows on which a client's models are judged: those it holds back, else those it trains on."""
    return (
        partition.held_by(client) if isinstance(partition, HeldBack) else partition.rows_of(client)
    )
