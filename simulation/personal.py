"""What simulated clients hold for themselves: tensors that never travel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.layout import Layout
from fedloom.core.types import ClientId, Params
from fedloom.results.rundir import RunDirectory
from fedloom.tuning.own import first_held

__all__ = ["kept_by_clients", "own_of"]


@contextmanager
def kept_by_clients(
    directory: RunDirectory, layout: Layout, run: Mapping[str, str | int], *, done: int
) -> Iterator[ClientVectors | None]:
    """What clients hold as of a round, in the run's folder; None where they hold nothing.

    Raises:
        RunError: the file cannot be used, is of another run, or lacks rounds that are done.
    """
    if not layout.specs:
        yield None
        return
    path, checkpoints = directory.path / "personal" / "kept.sqlite", directory.checkpoints
    kept = ClientVectors(path, layout, run, done=done, fresh=not done, checkpoints=checkpoints)
    try:
        yield kept
    finally:
        kept.close()


def own_of(kept: ClientVectors, client: ClientId, params: Params) -> Params:
    """What a client holds: its record, else what it is before the client's first round.

    Raises:
        RunError: its record cannot be read.
    """
    own = kept.of(client)
    return first_held(kept.layout, params) if own is None else Params(kept.layout, own)
