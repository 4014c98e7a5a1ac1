"""Transformer blocks as a graph, with room for what is attached to their linear maps.

Hidden states are ``[r, n, d]``: r rows, each with adapters of its own, of n = b * t tokens: b
examples padded to t. The arithmetic is that of `fedloom.backbones.block`, in float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fedloom.backbones.families import FAMILIES, Family
from fedloom.backbones.onnx.graph import Graph, Written
from fedloom.backbones.onnx.weights import Floats, Weights
from fedloom.backbones.shape import Activation, Shape
from fedloom.core.errors import ModelError

__all__ = ["BIAS", "FLAT", "GRID", "HIDDEN", "Change", "Site", "blocks_graph"]

HIDDEN, BIAS, GRID, FLAT = "hidden", "bias", "grid", "flat"
"""What is fed: hidden states; what is added to scores, ``[., 1, 1, t]``; the shapes ``[r * b, t,
heads, head_dim]`` and ``[r, n, d]``."""

Change: TypeAlias = Callable[[Graph, str, str], str]
"""Of a graph, the input of a linear map and its output: the changed output, or input."""


@dataclass(frozen=True)
class Site:
    """What is attached at one linear map.

    Attributes:
        before: changes the input (the third name is the input, too).
        after: changes the output.
    """

    before: Change | None = None
    after: Change | None = None


def blocks_graph(
    shape: Shape, weights: Weights, layers: range, sites: Mapping[str, Site]
) -> Written:
    """Some blocks of a backbone as a graph that can be run.

    Args:
        shape: of the backbone.
        weights: of the backbone.
        layers: which blocks.
        sites: what is attached, by module name.

    Raises:
        ModelError: the family is not one that graphs are made of, or the weights do not fit.
    """
    if shape.family != "bert":
        text = f"model_type = {shape.family!r}: the engine onnx has 'bert'; others need torch"
        raise ModelError(text)
    graph = Graph()
    x = graph.fed(HIDDEN, ("r", "n", shape.width))
    graph.fed(BIAS, ("e", 1, 1, "t"))
    graph.fed(GRID, (4,), "int64")
    graph.fed(FLAT, (3,), "int64")
    whole = _Blocks(graph, shape, weights, sites)
    for layer in layers:
        x = whole.block(x, layer)
    return graph.written(x, ("r", "n", shape.width))


@dataclass(frozen=True)
class _Blocks:
    graph: Graph
    shape: Shape
    weights: Weights
    sites: Mapping[str, Site]

    @property
    def family(self) -> Family:
        return FAMILIES[self.shape.family]

    def block(self, x: str, layer: int) -> str:
        """``norm(x + f(x))`` for attention, and for the MLP."""
        d, inner = self.shape.width, self.shape.inner
        mixed = self._attention(x, layer)
        y = self._linear(mixed, layer, "o", (d, d))
        x = self._norm(self.graph.apply("Add", (y, x)), layer, "norm1")
        active = self._activate(self._linear(x, layer, "up", (inner, d)))
        y = self._linear(active, layer, "down", (d, inner))
        return self._norm(self.graph.apply("Add", (y, x)), layer, "norm2")

    def _attention(self, x: str, layer: int) -> str:
        graph, d = self.graph, self.shape.width
        orders = {"q": (0, 2, 1, 3), "k": (0, 2, 3, 1), "v": (0, 2, 1, 3)}
        q, k, v = (
            graph.apply(
                "Transpose",
                (graph.apply("Reshape", (self._linear(x, layer, part, (d, d)), GRID)),),
                perm=order,
            )
            for part, order in orders.items()
        )
        scores = graph.apply("MatMul", (q, k))
        scores = graph.apply("Mul", (scores, graph.scalar(self.shape.head_dim**-0.5)))
        scores = graph.apply("Add", (scores, BIAS))
        mixed = graph.apply("MatMul", (graph.apply("Softmax", (scores,), axis=-1), v))
        mixed = graph.apply("Transpose", (mixed,), perm=(0, 2, 1, 3))
        return graph.apply("Reshape", (mixed, FLAT))

    def _linear(self, x: str, layer: int, part: str, size: tuple[int, int]) -> str:
        site = self.sites.get(self.family.module(part, layer), Site())
        if site.before is not None:
            x = site.before(self.graph, x, x)
        weight = self.weights.matrix(self.family.stored_part(part, layer, "weight"), size)
        y = self.graph.product(x, weight, self._vector(layer, part, "bias", size[0]))
        return y if site.after is None else site.after(self.graph, x, y)

    def _norm(self, x: str, layer: int, part: str) -> str:
        fields = (
            self._vector(layer, part, field, self.shape.width) for field in ("weight", "bias")
        )
        own = tuple(self.graph.constant(vector) for vector in fields)
        return self.graph.apply("LayerNormalization", (x, *own), axis=-1, epsilon=self.shape.eps)

    def _vector(self, layer: int, part: str, field: str, size: int) -> Floats:
        found = self.weights.get(self.family.stored_part(part, layer, field), (size,))
        return np.ascontiguousarray(found)

    def _activate(self, x: str) -> str:
        kinds: Mapping[Activation, Mapping[str, str]] = {
            "gelu": {"approximate": "none"},
            "gelu_tanh": {"approximate": "tanh"},
        }
        kind = self.shape.activation
        if kind in kinds:
            return self.graph.apply("Gelu", (x,), **kinds[kind])
        if kind == "silu":
            return self.graph.apply("Mul", (x, self.graph.apply("Sigmoid", (x,))))
        return self.graph.apply("Relu", (x,))
