"""How clients move when slopes are known: by integers that can be sent, or by an optimizer."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.layout import Layout, Vector
from fedloom.core.steps import Steps
from fedloom.core.types import LocalWork
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learners.spot import Trials
from fedloom.tuning.learners.tally import Tally
from fedloom.tuning.optimizers import optimizer_for
from fedloom.tuning.store import Store

__all__ = ["Integers", "Mover", "Optimized", "columns_of"]


class Mover(Protocol):
    """Moves the clients of a chunk."""

    @property
    def clipped(self) -> NDArray[np.int64]:
        """Scalars of each client, ``[k]``, that were larger than what is sent."""
        ...

    def add(self, trials: Trials, slopes: NDArray[np.float64], along: Tensor | None) -> None:
        """Take note of slopes, float64 ``[r]``.

        Args:
            trials: the directions.
            slopes: along them; along what is left of them beside the guide, where there is one.
            along: how far each goes along the guide, ``[r]``; None without a guide.
        """
        ...

    def add_guide(self, slopes: NDArray[np.float64]) -> None:
        """Take note of the slopes along the guide, float64, of the clients that take part."""
        ...

    def go(self, clients: int) -> None:
        """Move the first `clients` along all that was noted, and down the exact gradients."""
        ...

    def sent(self, n: int) -> tuple[Layout, Vector, Steps | None]:
        """What client n sends: a delta, float32, of the layout; and steps beside it."""
        ...


class Integers:
    """Moves by integer steps, which the server can make again to the bit.

    See `Tally`.

    With a guide u of unit length, directions are looked along only in its complement, ``z' = z - (z
    . u) u``, and u itself is looked along once: ``(g . u) u + mean_i (g . z'_i) z'_i`` is unbiased,
    and as exact along u as the measurement. It is the same as ``mean_i (g . z'_i) z_i + c u`` with
    ``c = g . u - mean_i (g . z'_i) (z_i . u)``; so the directions travel as they always do, and c
    is one scalar more, **the last one**, worth as much as the others. Who has sent a guide knows of
    it: ``scalars[:-1]`` belong to directions, ``scalars[-1]`` to the guide at unit length.

    Args:
        search: what scalars stand for.
        work: the numbers of local training.
        store: the clients.
        parts: the tensors that move, and those whose gradient is exact.
        keys: of every client's directions.
        slots: how many directions each may use.
        guide: of unit length, float32 ``[d]``; None for none.
    """

    def __init__(
        self,
        search: Search,
        work: LocalWork,
        store: Store,
        *,
        parts: tuple[Layout, Layout],
        keys: Sequence[Sequence[int]],
        slots: Sequence[int],
        guide: Vector | None,
    ) -> None:
        self._search, self._store, self._work = search, store, work
        self._guide, self._exact = guide, parts[1]
        self._tallies = [
            Tally(search, work, moved=parts[0], keys=own, slots=count)
            for own, count in zip(keys, slots, strict=True)
        ]
        device = store.values.device
        self._columns, self._known = (columns_of(store.trained, p).to(device) for p in parts)
        self._along = np.zeros(len(slots), dtype=np.int64)  # the guide's scalar
        self._drift = store.values.new_zeros(len(slots), self._exact.size)
        self._start: Vector = store.start[self._columns].cpu().numpy()
        self.clipped = np.zeros(len(slots), dtype=np.int64)

    def add(self, trials: Trials, slopes: NDArray[np.float64], along: Tensor | None) -> None:
        """Take note of slopes; see `Mover`."""
        steps = np.zeros(len(slopes), dtype=np.int64)
        for n in np.unique(trials.owner):
            mine = trials.owner == n
            steps[mine], clipped = self._tallies[n].add(trials.numbers[mine], slopes[mine])
            self.clipped[n] += clipped
        if along is not None:
            back = np.zeros(len(self._along))
            np.add.at(back, trials.owner, steps * along.double().cpu().numpy())
            self._shift(-back)

    def add_guide(self, slopes: NDArray[np.float64]) -> None:
        """Take note of the slopes along the guide; see `Mover`."""
        scale = self._search.directions * self._tallies[0].scale / self._search.worth
        whole = np.zeros(len(self._along))
        whole[: len(slopes)] = np.nan_to_num(slopes * scale)
        self._shift(whole)

    def _shift(self, steps: NDArray[np.float64]) -> None:
        most = self._search.most
        whole = self._along + np.rint(np.clip(steps, -(2.0**40), 2.0**40)).astype(np.int64)
        kept = np.clip(whole, -most, most)
        self.clipped += kept != whole
        self._along = kept

    def go(self, clients: int) -> None:
        """Move; see `Mover`."""
        store, k = self._store, clients
        here = [self._place(n) for n in range(k)]
        store.values[:k, self._columns] = torch.from_numpy(np.stack(here)).to(store.values.device)
        rate = self._work.head_lr or self._work.lr
        self._drift[:k] -= rate * store.grad[:k, self._known]
        store.values[:k, self._known] = store.start[self._known] + self._drift[:k]
        store.stepped()

    def _place(self, n: int) -> Vector:
        tally = self._tallies[n]
        here = tally.place(self._start)
        if self._guide is not None:
            here += self._guide * np.float32(tally.worth * int(self._along[n]))
        return here

    def sent(self, n: int) -> tuple[Layout, Vector, Steps | None]:
        """What client n sends; see `Mover`."""
        own = () if self._guide is None else (int(self._along[n]),)
        return self._exact, self._drift[n].cpu().numpy(), self._tallies[n].steps(*own)


class Optimized:
    """Moves by the optimizer of the task, which the gradient's estimate is handed to.

    As in SPRY (Panchal et al., NeurIPS 2024, algorithm 1) and FedMeZO: what a client sends is the
    change of its tensors, number by number.

    Args:
        search: how many directions.
        work: the numbers of local training.
        store: the clients.
        moved: the tensors that move along directions; the others have their gradient.
        guide: of unit length, float32 ``[d]``; None for none.
    """

    def __init__(
        self,
        search: Search,
        work: LocalWork,
        store: Store,
        *,
        moved: Layout,
        guide: Vector | None,
    ) -> None:
        device = store.values.device
        self._store, self._optimizer = store, optimizer_for(work, store)
        self._share = 1 / search.directions
        self._columns = columns_of(store.trained, moved).to(device)
        self._gradient = store.values.new_zeros(len(store.values), moved.size)
        self._guide = None if guide is None else torch.from_numpy(guide).to(device)
        self.clipped = np.zeros(len(store.values), dtype=np.int64)

    def add(self, trials: Trials, slopes: NDArray[np.float64], along: Tensor | None) -> None:
        """Take note of slopes; see `Mover`."""
        owner = torch.from_numpy(trials.owner).to(trials.z.device)
        weights = torch.from_numpy(slopes * self._share).float().to(trials.z.device)
        self._gradient.index_add_(0, owner, weights[:, None] * trials.z)
        if along is not None and self._guide is not None:
            self._gradient.index_add_(0, owner, -(weights * along)[:, None] * self._guide)

    def add_guide(self, slopes: NDArray[np.float64]) -> None:
        """Take note of the slopes along the guide; see `Mover`."""
        if self._guide is not None:
            found = torch.from_numpy(slopes).float().to(self._guide.device)
            self._gradient[: len(slopes)] += found[:, None] * self._guide

    def go(self, clients: int) -> None:
        """Move; see `Mover`."""
        self._store.grad[:clients, self._columns] = self._gradient[:clients]
        self._optimizer.step()
        self._gradient.zero_()

    def sent(self, n: int) -> tuple[Layout, Vector, Steps | None]:
        """What client n sends; see `Mover`."""
        delta = self._store.values[n] - self._store.start
        return self._store.trained, delta.cpu().numpy(), None


def columns_of(whole: Layout, part: Layout) -> Tensor:
    """Where the tensors of a part lie in the whole, int64 ``[part.size]``."""
    places = [np.arange(whole.span(s.name).start, whole.span(s.name).stop) for s in part]
    return torch.from_numpy(np.concatenate(places) if places else np.zeros(0, dtype=np.int64))
