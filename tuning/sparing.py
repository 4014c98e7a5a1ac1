"""Batches in parts: the same losses and gradients, with less of a batch in memory at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.store import Store

__all__ = ["Sparing", "descend", "portions"]


class Sparing:
    """A session of whose batches only so many examples of each client are run at a time.

    Attributes:
        inner: the model.
        examples: of each client in one pass at most.
    """

    def __init__(self, session: Session, examples: int) -> None:
        self.inner, self.examples = session, examples
        self.alone = bool(getattr(session, "alone", False))
        self.one_row = bool(getattr(session, "one_row", False))

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients."""
        return self.inner.store(params, clients)

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return self.inner.tokens(rows)

    def over(self, rows: NDArray[np.int64]) -> "Sparing":
        """The same for a few examples; what is computed once is computed of all of them at once."""
        near = self.inner.over(rows)
        return self if near is self.inner else Sparing(near, self.examples)

    def flops(self, tokens: int) -> float:
        """Those of the batch: parts add nothing."""
        return self.inner.flops(tokens)

    def memory(self, tokens: int, *, backward: bool) -> int:
        """Of a pass over so many tokens; see `Session.memory`."""
        return self.inner.memory(tokens, backward=backward)

    def pieces(self, rows: Rows) -> list[tuple[Rows, NDArray[np.bool_]]]:
        """The parts of a batch: see `portions`."""
        return list(portions(rows, self.examples))

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch, in parts where nothing is kept for a backward pass; see `descend`."""
        pieces = self.pieces(rows)
        if len(pieces) == 1 or torch.is_grad_enabled():
            return self.inner.losses(store, rows)
        found = [(self.inner.losses(store, part), real) for part, real in pieces]
        return _joined(found)

    def descend(self, store: Store, rows: Rows) -> Losses:
        """See `descend`."""
        pieces = self.pieces(rows)
        if len(pieces) == 1:
            return descend(self.inner, store, rows)
        found: list[tuple[Losses, NDArray[np.bool_]]] = []
        for part, real in pieces:
            losses = self.inner.losses(store, part)
            weights = losses.count * torch.from_numpy(real).to(losses.count)
            (losses.loss * weights).sum().backward()
            found.append((_detached(losses), real))
        whole = _joined(found)
        store.grad[: store.clients].div_(whole.count.clamp(min=1).unsqueeze(1))
        return whole


def descend(session: Session, store: Store, rows: Rows) -> Losses:
    """The losses of one batch; the gradient of each client's mean loss is left in the store.

    In parts: with n_p predictions in part p, the gradient of the mean is
    ``sum_p n_p g_p / sum_p n_p``.

    Args:
        session: the model.
        store: the clients' rows; their gradient is zero.
        rows: the batch.

    Returns:
        The losses, without a graph.
    """
    if isinstance(session, Sparing):
        return session.descend(store, rows)
    losses = session.losses(store, rows)
    losses.loss.sum().backward()
    return _detached(losses)


def portions(rows: Rows, most: int) -> Iterator[tuple[Rows, NDArray[np.bool_]]]:
    """A batch in parts of at most so many examples of each client, as equal as they can be.

    Args:
        rows: the examples of k clients.
        most: examples of a client in a part.

    Yields:
        The examples of a part, and bool ``[k]``: whose are to be counted. A client with fewer
        examples than there are parts repeats its first one where it has none left.
    """
    count = -(-max(len(own) for own in rows) // most)
    split = [np.array_split(own, count) for own in rows]
    for number in range(count):
        part = [own[number] for own in split]
        real = np.array([len(own) > 0 for own in part])
        pairs = zip(part, rows, strict=True)
        yield [own if len(own) else whole[:1] for own, whole in pairs], real


def _detached(losses: Losses) -> Losses:
    return Losses(
        losses.loss.detach(),
        losses.correct,
        losses.count,
        losses.each,
        losses.predicted,
        losses.target,
    )


def _joined(found: list[tuple[Losses, NDArray[np.bool_]]]) -> Losses:
    """The losses of a batch from those of its parts; predictions are client by client again."""
    first = found[0][0]
    reals = [torch.from_numpy(real).to(first.count.device) for _, real in found]
    counts = [losses.count * real for (losses, _), real in zip(found, reals, strict=True)]
    count = torch.stack(counts).sum(0)
    sums = [losses.loss * own for (losses, _), own in zip(found, counts, strict=True)]
    right = [losses.correct * real for (losses, _), real in zip(found, reals, strict=True)]
    clients = torch.arange(len(count), device=count.device)
    owners = [torch.repeat_interleave(clients, losses.count.long()) for losses, _ in found]
    kept = [real[owner] for real, owner in zip(reals, owners, strict=True)]
    owner = torch.cat([own[keep] for own, keep in zip(owners, kept, strict=True)])
    order = torch.argsort(owner, stable=True)

    def laid(of: list[Tensor]) -> Tensor:
        return torch.cat([own[keep] for own, keep in zip(of, kept, strict=True)])[order]

    return Losses(
        torch.stack(sums).sum(0) / count.clamp(min=1),
        torch.stack(right).sum(0),
        count,
        laid([losses.each for losses, _ in found]),
        laid([losses.predicted for losses, _ in found]),
        laid([losses.target for losses, _ in found]),
    )
