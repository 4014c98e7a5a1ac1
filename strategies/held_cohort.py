"""A round's updates held on disk, for the rules that need the whole cohort at once.

A median, a distance between clients or a stack of their factors cannot be had from a running sum.
Each delta is appended to a temporary file as it comes; when the round ends the rules read it back
block by block, the same few columns of every client, sorted by client id. Memory is clients times
one block whatever the model, and nothing depends on the order in which updates came.

The file has no name from the moment it is made: it is gone with the total that holds it, or with
the process, however that ends.
"""

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import RunError, UpdateRefusedError
from fedloom.core.fixed_point import largest
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientId, ClientUpdate, LocalWork, Metrics
from fedloom.strategies.decoded import decoded

__all__ = ["BLOCK_BYTES", "Block", "HeldCohort", "HeldUpdate", "hold"]

BLOCK_BYTES = 32 << 20
"""What the rows of one block may take in memory."""


@dataclass(frozen=True)
class HeldUpdate:
    """One client's update, but for its numbers.

    Attributes:
        client: who sent it.
        num_examples: training examples behind it.
        layout: the tensors that it has.
        work: the numbers of local training that its task asked for.
        metrics: what the client measured.
        place: the byte of the file that its delta begins at.
    """

    client: ClientId
    num_examples: int
    layout: Layout
    work: LocalWork
    metrics: Metrics
    place: int


@dataclass(frozen=True, eq=False)
class Block:
    """The same columns of every client.

    Attributes:
        span: which, of the flat vector; they are of tensors that the same clients have.
        present: who has them, bool ``[clients]``.
        rows: the deltas, float32 ``[clients, n]``; zero where a client has them not.
    """

    span: slice
    present: NDArray[np.bool_]
    rows: NDArray[np.float32]


class HeldCohort:
    """The updates of one round; `hold` adds to it.

    Args:
        folder: where the file lies; None for the system's folder of temporary files.

    Raises:
        RunError: no file can be made there.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._held: dict[ClientId, HeldUpdate] = {}
        self._end = 0
        self._folder = folder or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise RunError(f"{self._folder}: {_cannot(error)}") from error
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def updates(self) -> tuple[HeldUpdate, ...]:
        """Who is held, sorted by client id: the order of all rows."""
        return tuple(self._held[client] for client in sorted(self._held))

    def add(self, update: ClientUpdate) -> None:
        """Hold one more decoded update; after an error all is as it was.

        Raises:
            UpdateRefusedError: it is not decoded, not finite, weighs less than nothing, or is the
                second one of its client.
            RunError: the disk does not take it.
        """
        found, who = decoded(update), f"client {update.client!r}"
        if update.num_examples < 0:
            raise UpdateRefusedError(f"{who}: num_examples = {update.num_examples}; below 0")
        if update.client in self._held:
            raise UpdateRefusedError(f"{who}: an update of it is already held", code="duplicate")
        delta = found.dense()
        vector = np.ascontiguousarray(delta.vector)
        if not np.isfinite(largest(vector)):
            raise UpdateRefusedError(f"{who}: the delta is not finite", code="not-finite")
        self._write(vector)
        self._held[update.client] = HeldUpdate(
            client=update.client,
            num_examples=update.num_examples,
            layout=delta.layout,
            work=update.work,
            metrics=update.metrics,
            place=self._end,
        )
        self._end += vector.nbytes

    def present(self, layout: Layout) -> NDArray[np.bool_]:
        """Who has which tensor of `layout`: bool ``[clients, len(layout.specs)]``."""
        has = [[name in update.layout for name in layout.names] for update in self.updates]
        return np.array(has, dtype=np.bool_).reshape(len(has), len(layout.specs))

    def rows(self, layout: Layout, span: slice) -> NDArray[np.float32]:
        """Columns of every client, float32 ``[clients, n]``; zero where it lacks the tensor.

        Args:
            layout: the model's.
            span: which columns of its flat vector.

        Raises:
            LayoutError: a client has a tensor that `layout` lacks or holds in another shape.
            RunError: the file cannot be read.
        """
        out = np.empty((len(self), span.stop - span.start), dtype=np.float32)
        self._fill(out, _Places(layout, self.updates), span.start)
        return out

    def blocks(
        self,
        layout: Layout,
        memory: int = BLOCK_BYTES,
        *,
        chosen: NDArray[np.intp] | None = None,
    ) -> Iterator[Block]:
        """All columns of `layout` in order, some at a time.

        A block's rows may be written into, and are gone when the next block is asked for: all
        blocks use the same memory, as the system takes longer to give so much of it than to fill
        it.

        Args:
            layout: the model's.
            memory: bytes of the rows of one block, at most (but for a single column).
            chosen: numbers of the clients that are read, in ascending order; None for all.

        Raises:
            LayoutError: a client has a tensor that `layout` lacks or holds in another shape.
            RunError: the file cannot be read.
        """
        known, updates = self.present(layout), self.updates
        if chosen is not None:
            known, updates = known[chosen], tuple(updates[i] for i in chosen)
        clients, places = len(updates), _Places(layout, updates)
        most = max(memory // (4 * max(clients, 1)), 1)
        store = np.empty(clients * min(most, layout.size), dtype=np.float32)
        for whole, present in _runs(layout, known):
            for start in range(whole.start, whole.stop, most):
                span = slice(start, min(start + most, whole.stop))
                width = span.stop - start
                rows = store[: clients * width].reshape(clients, width)
                self._fill(rows, places, start)
                yield Block(span, present, rows)

    def tensor(self, update: HeldUpdate, name: str) -> Vector | None:
        """One tensor of one client's delta in the shape that it came in; None where it has none.

        Raises:
            RunError: the file cannot be read.
        """
        if name not in update.layout:
            return None
        span = update.layout.span(name)
        out = np.empty(span.stop - span.start, dtype=np.float32)
        self._read(update.place + 4 * span.start, out)
        return out.reshape(update.layout.specs[update.layout.names.index(name)].shape)

    def _fill(self, rows: NDArray[np.float32], places: "_Places", start: int) -> None:
        """Read float32 ``[clients, n]``, the columns of the model from `start` on."""
        width = rows.shape[1]
        for row, (delta, runs) in zip(rows, places.within(start, start + width), strict=True):
            if sum(stop - first for first, stop, _ in runs) < width:
                row[:] = 0
            for first, stop, place in runs:
                self._read(delta + place, row[first:stop])

    def _write(self, vector: Vector) -> None:
        left = vector.view(np.uint8).data
        try:
            self._file.seek(self._end)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            text = f"{self._end >> 20} MiB of {len(self._held)} clients held: {_cannot(error)}"
            raise RunError(f"{self._folder}: {text}") from error

    def _read(self, place: int, out: Vector) -> None:
        left = out.view(np.uint8).data
        try:
            self._file.seek(place)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise OSError("the file ends early")
                left = left[count:]
        except OSError as error:
            text = f"the cohort's updates cannot be read: {error}"
            raise RunError(f"{self._folder}: {text}") from error


def _runs(layout: Layout, known: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Neighbouring tensors that the same clients have, as one."""
    start = 0
    for i, spec in enumerate(layout):
        stop = layout.span(spec.name).stop
        last = i + 1 == len(layout.specs)
        if last or not np.array_equal(known[:, i], known[:, i + 1]):
            yield slice(start, stop), known[:, i]
            start = stop


class _Places:
    """Where columns of a model lie in the deltas of clients that have some of its tensors.

    Args:
        layout: the model's.
        updates: the clients'.

    Raises:
        LayoutError: a client has a tensor that the model lacks or holds in another shape.
    """

    def __init__(self, layout: Layout, updates: Sequence[HeldUpdate]) -> None:
        parts = {id(update.layout): update.layout for update in updates}  # to hash each once
        spans = {part: layout.spans(part) for part in set(parts.values())}
        self._spans = {key: spans[part] for key, part in parts.items()}
        self._clients = [(update.place, id(update.layout)) for update in updates]

    def within(self, start: int, stop: int) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """The columns from `start` to `stop` that each client has.

        Yields:
            The byte of the file that its delta begins at; and of each run where it begins and ends,
            counted from `start`, and the byte of the delta that it begins at.
        """
        runs = {key: _runs_within(spans, start, stop) for key, spans in self._spans.items()}
        for place, key in self._clients:
            yield place, runs[key]


def _runs_within(
    spans: Sequence[tuple[slice, slice]], start: int, stop: int
) -> list[tuple[int, int, int]]:
    found = []
    for here, there in spans:
        first, last = max(here.start, start), min(here.stop, stop)
        if first < last:
            place = 4 * (there.start + first - here.start)
            found.append((first - start, last - start, place))
    return found


def hold(total: HeldCohort | None, update: ClientUpdate) -> HeldCohort:
    """The total with one more update: what an aggregator's `add` returns.

    Raises:
        UpdateRefusedError: the update cannot be held; the total is as it was.
        RunError: the disk does not take it.
    """
    total = HeldCohort() if total is None else total
    total.add(update)
    return total


def _cannot(error: OSError) -> str:
    return f"cannot hold the cohort's updates: {error}; TMPDIR names another folder"
