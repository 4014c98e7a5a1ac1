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
from fedloom.backbones.onnx.linears import check_family, has_bias, linears_of
from fedloom.backbones.onnx.matrices import Floats
from fedloom.backbones.onnx.weights import Weights
from fedloom.backbones.shape import Activation, Shape

__all__ = ["BIAS", "COS", "FLAT", "GRID", "HIDDEN", "SIN", "Change", "Site", "blocks_graph"]

HIDDEN, BIAS, GRID, FLAT = "hidden", "bias", "grid", "flat"
"""What is fed: hidden states; what is added to scores, ``[., 1, 1 or t, t]``; the shapes ``[r * b,
t, -1, head_dim]`` and ``[r, n, -1]``."""
COS, SIN = "cos", "sin"
"""Where positions are rotations, ``[t, head_dim]``: sines of the first half are negative."""

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
    """Some blocks of a backbone as a graph that can be run; after the last the final norm.

    Args:
        shape: of the backbone.
        weights: of the backbone.
        layers: which blocks.
        sites: what is attached, by module name.

    Raises:
        ModelError: the family is not one that graphs are made of, or the weights do not fit.
    """
    check_family(shape)
    graph = Graph()
    x = graph.fed(HIDDEN, ("r", "n", shape.width))
    graph.fed(BIAS, ("e", 1, "s", "t"))
    graph.fed(GRID, (4,), "int64")
    graph.fed(FLAT, (3,), "int64")
    if shape.rope_theta is not None:
        graph.fed(COS, ("t", shape.head_dim))
        graph.fed(SIN, ("t", shape.head_dim))
    whole = _Blocks(graph, shape, weights, sites)
    for layer in layers:
        x = whole.block(x, layer)
    if layers.stop == shape.depth:
        x = whole.final(x)
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
        """``norm(x + f(x))`` or ``x + f(norm(x))`` for attention, and for the MLP."""
        add = self.graph.apply
        if self.shape.post_norm:
            x = self._norm(add("Add", (self._attention(x, layer), x)), layer, "norm1")
            return self._norm(add("Add", (self._mlp(x, layer), x)), layer, "norm2")
        x = add("Add", (self._attention(self._norm(x, layer, "norm1"), layer), x))
        return add("Add", (self._mlp(self._norm(x, layer, "norm2"), layer), x))

    def final(self, x: str) -> str:
        """The norm after the last block, where the family has one."""
        if "final" not in self.family.outer:
            return x
        name = self.family.outer["final"]
        return self._normed(x, lambda field: self.family.stored(name, field))

    def _mlp(self, x: str, layer: int) -> str:
        if self.shape.gated:
            gate = self._activate(self._linear(x, layer, "gate"))
            active = self.graph.apply("Mul", (gate, self._linear(x, layer, "up")))
        else:
            active = self._activate(self._linear(x, layer, "up"))
        return self._linear(active, layer, "down")

    def _attention(self, x: str, layer: int) -> str:
        graph = self.graph
        q, k, v = self._heads(x, layer)
        if self.shape.rope_theta is not None:
            q, k = self._rotated(q), self._rotated(k)
        shared = self.shape.kv_heads != self.shape.heads
        q = self._split(q, self.shape.kv_heads) if shared else q
        scores = graph.apply("MatMul", (q, graph.apply("Transpose", (k,), perm=(0, 1, 3, 2))))
        scores = graph.apply("Mul", (scores, graph.scalar(self.shape.head_dim**-0.5)))
        scores = self._split(scores, self.shape.heads) if shared else scores
        scores = graph.apply("Softmax", (graph.apply("Add", (scores, BIAS)),), axis=-1)
        scores = self._split(scores, self.shape.kv_heads) if shared else scores
        mixed = graph.apply("MatMul", (scores, v))
        mixed = self._split(mixed, self.shape.heads) if shared else mixed
        mixed = graph.apply("Transpose", (mixed,), perm=(0, 2, 1, 3))
        return self._linear(graph.apply("Reshape", (mixed, FLAT)), layer, "o")

    def _heads(self, x: str, layer: int) -> tuple[str, str, str]:
        """Queries, keys and values, each ``[r * b, heads, t, head_dim]``."""

        def laid(part: str) -> str:
            grid = self.graph.apply("Reshape", (self._linear(x, layer, part), GRID))
            return self.graph.apply("Transpose", (grid,), perm=(0, 2, 1, 3))

        if "qkv" not in self.family.parts:
            return laid("q"), laid("k"), laid("v")
        heads, joined = self.shape.heads, laid("qkv")
        ends = (heads, heads + self.shape.kv_heads, heads + 2 * self.shape.kv_heads)
        q, k, v = (
            self.graph.slice(joined, 1, *span) for span in zip((0, *ends), ends, strict=False)
        )
        return q, k, v

    def _split(self, x: str, heads: int) -> str:
        """Rows of heads that share keys lie under each other: ``[., kv, G * t, .]`` and back."""
        shape = self.graph.constant(np.array((0, heads, -1, 0), dtype=np.int64))  # 0: as before
        return self.graph.apply("Reshape", (x, shape))

    def _rotated(self, x: str) -> str:
        """Coordinate i turned with ``i + head_dim / 2``; see `fedloom.backbones.rotary`."""
        graph, half = self.graph, self.shape.head_dim // 2
        low, high = graph.slice(x, -1, 0, half), graph.slice(x, -1, half, 2 * half)
        turned = graph.apply("Concat", (high, low), axis=-1)
        sides = (graph.apply("Mul", (x, COS)), graph.apply("Mul", (turned, SIN)))
        return graph.apply("Add", sides)

    def _linear(self, x: str, layer: int, part: str) -> str:
        site, size = self.sites.get(self.family.module(part, layer), Site()), self._sizes[part]
        if site.before is not None:
            x = site.before(self.graph, x, x)
        names = self.family.stored_part(part, layer, "weight")
        weight = self.weights.matrix(names, size, turned=self.family.transposed)
        bias = None
        if has_bias(self.shape, part):
            bias = self._vector(self.family.stored_part(part, layer, "bias"), size[0])
        y = self.graph.product(x, weight, bias)
        return y if site.after is None else site.after(self.graph, x, y)

    @property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        return linears_of(self.shape)

    def _norm(self, x: str, layer: int, part: str) -> str:
        return self._normed(x, lambda field: self.family.stored_part(part, layer, field))

    def _normed(self, x: str, names: Callable[[str], tuple[str, ...]]) -> str:
        """Layer norm, or RMS norm; see `fedloom.backbones.norm`."""
        graph, d = self.graph, self.shape.width
        weight = graph.constant(self._vector(names("weight"), d))
        if not self.shape.rms:
            own = weight, graph.constant(self._vector(names("bias"), d))
            return graph.apply("LayerNormalization", (x, *own), axis=-1, epsilon=self.shape.eps)
        last = graph.constant(np.array([-1], dtype=np.int64))
        square = graph.apply("ReduceMean", (graph.apply("Mul", (x, x)), last), keepdims=1)
        square = graph.apply("Add", (square, graph.scalar(self.shape.eps)))
        scaled = graph.apply("Div", (x, graph.apply("Sqrt", (square,))))
        return graph.apply("Mul", (scaled, weight))

    def _vector(self, names: tuple[str, ...], size: int) -> Floats:
        return np.ascontiguousarray(self.weights.get(names, (size,)))

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
