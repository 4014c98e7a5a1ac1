"""Adapters as inputs of a graph: what is perturbed is fed, and the frozen weights are shared.

Each tensor is fed as ``[r, ...]``, one for each row of the batch, or as ``[1, ...]`` for all.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedloom.backbones.onnx.blocks import Change, Site
from fedloom.backbones.onnx.graph import Graph
from fedloom.backbones.onnx.matrices import Floats
from fedloom.core.errors import ConfigError
from fedloom.core.layout import TensorSpec
from fedloom.tuning.base import Part
from fedloom.tuning.parts import BottleneckPart, Ia3Part, LoraPart

__all__ = ["check_part", "feeds_of", "sites_of"]


def check_part(part: Part) -> None:
    """Check that a graph can have inputs for a part of an adapter.

    Raises:
        ConfigError: it cannot.
    """
    known = isinstance(part, Ia3Part | LoraPart)
    if not known and not (isinstance(part, BottleneckPart) and part.units == 1):
        text = (
            "the engine onnx has the adapters head, ia3, lora (side = 0) and bottleneck (units = 1)"
        )
        raise ConfigError(f"adapter: {text}; others need torch")


def sites_of(parts: Sequence[Part], base: str) -> dict[str, Site]:
    """What is attached at each module.

    Args:
        parts: as `check_part` takes them; at most one before and one after each module.
        base: what module names of the parts begin with, beside the backbone's.
    """
    found: dict[str, Site] = {}
    for part in parts:
        name = part.module.removeprefix(base)
        site, change = found.get(name, Site()), _change(part)
        found[name] = Site(change, site.after) if part.before else Site(site.before, change)
    return found


def feeds_of(parts: Sequence[Part], tensors: Mapping[str, Floats]) -> dict[str, Floats]:
    """What is fed for the tensors of some parts, each ``[r or 1, *shape]``."""
    found: dict[str, Floats] = {}
    for part in parts:
        for spec in part.specs:
            own = tensors[spec.name]
            laid = own.transpose(0, 2, 1) if _is_matrix(spec) else own.reshape(len(own), 1, -1)
            found[spec.name] = np.ascontiguousarray(laid)
        if isinstance(part, LoraPart):
            b = part.specs[1].name
            found[b] = found[b] * np.float32(part.scaling)
    return found


def _is_matrix(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and "ia3" not in spec.tags


def _fed(graph: Graph, part: Part) -> list[str]:
    """The inputs for the tensors of a part: matrices are fed transposed, vectors as one row."""
    found = []
    for spec in part.specs:
        size = spec.shape[::-1] if _is_matrix(spec) else (1, spec.size)
        found.append(graph.fed(spec.name, (f"rows of {spec.name}", *size)))
    return found


def _change(part: Part) -> Change:
    if isinstance(part, LoraPart):
        return lambda graph, x, y: _low_rank(graph, part, x, y)
    if isinstance(part, BottleneckPart):
        return lambda graph, _, y: _bottleneck(graph, part, y)
    return lambda graph, _, y: graph.apply("Mul", (y, *_fed(graph, part)))


def _low_rank(graph: Graph, part: Part, x: str, y: str) -> str:
    a, b = _fed(graph, part)
    low = graph.apply("MatMul", (x, a))
    return graph.apply("Add", (y, graph.apply("MatMul", (low, b))))


def _bottleneck(graph: Graph, part: Part, y: str) -> str:
    down, down_bias, up, up_bias = _fed(graph, part)
    low = graph.apply("Add", (graph.apply("MatMul", (y, down)), down_bias))
    wide = graph.apply("MatMul", (graph.apply("Relu", (low,)), up))
    return graph.apply("Add", (y, graph.apply("Add", (wide, up_bias))))
