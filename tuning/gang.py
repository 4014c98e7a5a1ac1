"""Batches of several sessions as one batch of a far side: one pass, one step (mode ``concat``)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, lengths_of, packing_of
from fedloom.backbones.packing import Read
from fedloom.core.errors import SplitError
from fedloom.tuning.far import FarLosses
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places

__all__ = ["Batch", "Gang"]


@dataclass(frozen=True)
class Batch:
    """One client's share of a step.

    Attributes:
        hidden: ``[1, L, d]``.
        packing: where its tokens lie.
        places: what it predicts, where the labels are far.
    """

    hidden: Tensor
    packing: Packing
    places: Places | None = None


class Gang:
    """Sessions of one client each whose batches run, and step, as one.

    Who brings a batch to a step takes part in it: the stage moves along the mean over those who
    also brought a gradient. Who comes late has no say in that step.

    Args:
        stage: the far side, of mode ``concat``.
        name: of the session that they are to the stage.
        most: clients at once.

    Raises:
        SplitError: the stage is of another mode.
    """

    def __init__(self, stage: Stage, name: str = "gang", most: int = 1024) -> None:
        if stage.options.mode != "concat":
            text = "batches are joined in mode concat only"
            raise SplitError(f"mode {stage.options.mode}: {text}", code="order")
        self._stage, self._name = stage, name
        self._steps: dict[int, tuple[dict[str, Packing], int]] = {}
        stage.open(name, most)

    def close(self) -> Tensor:
        """End the session; see `Stage.close`."""
        return self._stage.close(self._name)

    def forward(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Run the span on everybody's hidden states; see `Far.forward`.

        Raises:
            SplitError: a batch cannot be used (its session is named), or the step is done.
        """
        packing, hidden = self._joined(step, batches)
        out = self._stage.forward(self._name, step, hidden, packing, train=True)
        packings = {name: batch.packing for name, batch in batches.items()}
        self._steps[step] = packings, out.shape[1]
        for old in list(self._steps)[: -self._stage.options.credit]:
            del self._steps[old]
        return _apart(out, packing, packings)

    def backward(self, step: int, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pass back the gradients of those who brought one, and step; see `Far.backward`.

        Raises:
            SplitError: the step is not held, a session had no part in it, or a gradient is
                unusable.
        """
        if step not in self._steps:
            raise SplitError(f"step {step}: not held; send it again", code="evicted")
        packings, rows = self._steps[step]
        packing = _packing_of(packings)
        whole = self._whole(step, grads, rows == packing.length)
        share = len(packings) / len(grads)  # the stage takes the mean over all of the step
        found = self._stage.backward(self._name, step, whole * share)
        del self._steps[step]
        apart = _apart(found, packing, packings)
        return {name: apart[name] / share for name in grads}

    def _whole(self, step: int, grads: Mapping[str, Tensor], every: bool) -> Tensor:
        """Everybody's gradients in one, zero where there is none; of every token or of some."""
        packings, rows = self._steps[step]
        if not grads:
            raise SplitError(f"step {step}: nobody brought a gradient", code="order")
        sample = next(iter(grads.values()))
        whole = sample.new_zeros(len(packings), rows, self._stage.width)
        for name, grad in grads.items():
            if name not in packings:
                raise SplitError(f"session {name}: had no part in step {step}", code="order")
            own = packings[name].length if every else packings[name].examples
            expected = (1, own, self._stage.width)
            if tuple(grad.shape) != expected:
                text = f"gradient {list(grad.shape)}; expected {list(expected)}"
                raise SplitError(f"session {name}: step {step}: {text}", code="shape")
            whole[list(packings).index(name), :own] = grad[0]
        return whole

    def losses(
        self, step: int, batches: Mapping[str, Batch]
    ) -> dict[str, tuple[FarLosses, Tensor]]:
        """Run the span and the head on everybody's batch, and step; see `Far.losses`.

        Raises:
            SplitError: a batch cannot be used, or the step is done.
        """
        packing, hidden = self._joined(step, batches)
        places = _places(batches, packing, language=self._stage.language)
        every, grad = self._stage.losses(self._name, step, hidden, packing, places, train=True)
        said = FarLosses(**{name: figures.cpu() for name, figures in vars(every).items()})
        grads = _apart(grad, packing, {n: b.packing for n, b in batches.items()})
        found, start = {}, 0
        for place, name in enumerate(batches):
            stop = start + int((places.owner == place).sum())
            row, own = slice(place, place + 1), slice(start, stop)
            one = FarLosses(
                said.loss[row],
                said.correct[row],
                said.count[row],
                said.each[own],
                said.predicted[own],
            )
            found[name], start = (one, grads[name]), stop
        return found

    def _joined(self, step: int, batches: Mapping[str, Batch]) -> tuple[Packing, Tensor]:
        if not batches:
            raise SplitError(f"step {step}: nobody brought a batch", code="order")
        for name, batch in batches.items():
            self._stage.check(f"session {name}: step {step}", batch.hidden, batch.packing)
            if batch.packing.clients != 1:
                text = f"{batch.packing.clients} clients; a session of a gang is one"
                raise SplitError(f"session {name}: {text}", code="shape")
        packing = _packing_of({name: batch.packing for name, batch in batches.items()})
        first = next(iter(batches.values())).hidden
        whole = first.new_zeros(packing.clients, packing.length, first.shape[-1])
        for place, batch in enumerate(batches.values()):
            whole[place, : batch.packing.length] = batch.hidden[0]
        return packing, whole


def _packing_of(packings: Mapping[str, Packing]) -> Packing:
    """Everybody's examples in one packing."""
    each = [lengths_of(packing) for packing in packings.values()]
    # Where all examples have one token, reading the last says that it reads the first.
    long = [one for one in each if one.read is None or one.longest > one.most]
    reads: set[Read] = {one.read for one in long or each}
    if len(reads) > 1:
        raise SplitError(f"batches read at {sorted(map(str, reads))}; all alike", code="shape")
    tokens = tuple(own for one in each for own in one.tokens)
    return packing_of(Lengths(tokens, reads.pop()))


def _places(batches: Mapping[str, Batch], packing: Packing, *, language: bool) -> Places:
    """Everybody's places, counted in the joined packing."""
    width = packing.length if language else packing.examples
    index, target, owner = [], [], []
    for place, (name, batch) in enumerate(batches.items()):
        own = batch.places
        if own is None:
            raise SplitError(f"session {name}: a batch without labels", code="labels")
        index.append(np.asarray(own.index) + place * width)
        target.append(np.asarray(own.target))
        owner.append(np.full(len(own.index), place))
    return Places(np.concatenate(index), np.concatenate(target), np.concatenate(owner))


def _apart(values: Tensor, packing: Packing, packings: Mapping[str, Packing]) -> dict[str, Tensor]:
    """Each client's own of ``[k, L, d]``, or of ``[k, b, d]`` where only some tokens are read.

    They are in memory: from a GPU all come at once, and not one by one.
    """
    whole, here = values.shape[1] == packing.length, values.cpu()
    return {
        name: here[i : i + 1, : own.length if whole else own.examples].contiguous()
        for i, (name, own) in enumerate(packings.items())
    }
