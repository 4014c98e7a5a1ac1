"""Graphs of some blocks each, one after the other."""

from collections.abc import Sequence

from fedloom.backbones.onnx.blocks import HIDDEN
from fedloom.backbones.onnx.footprint import GRAPH, Footprint
from fedloom.backbones.onnx.matrices import Floats
from fedloom.backbones.onnx.runner import Feeds, Runner

__all__ = ["Chain", "spans"]


class Chain:
    """What the first graph makes of hidden states goes into the next.

    Args:
        runners: in their order.
    """

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._runners = tuple(runners)

    def __call__(self, feeds: Feeds) -> Floats:
        """The hidden states after the last of them.

        Raises:
            RuntimeError: they cannot be computed, such as where memory ran out.
        """
        first, *others = self._runners
        hidden = first(feeds)
        for runner in others:
            hidden = runner({**feeds, HIDDEN: hidden})
        return hidden


def spans(layers: range, depth: int, weights: Footprint) -> list[range]:
    """The blocks of each graph: as few graphs as there may be.

    While it is made, a graph takes its constants three times over.

    Args:
        layers: the blocks of all graphs.
        depth: blocks of the backbone.
        weights: what their graphs take.
    """
    step = max(GRAPH * depth // max(weights.constant, 1), 1)
    return [layers[start : start + step] for start in range(0, len(layers), step)]
