"""A graph of operators as it grows: names are made up on the way."""

from collections.abc import Sequence

import numpy as np

from fedloom.backbones.onnx.proto import (
    Array,
    Attribute,
    Dims,
    Operator,
    model,
    node,
    tensor,
    value,
)
from fedloom.backbones.onnx.weights import Codes, Floats

__all__ = ["Graph"]

_BLOCK = 128
"""Numbers of a row of int8 that share a scale in the graph; it is the same one for all of a row."""


class Graph:
    """Nodes, what is fed to them, and what is constant."""

    def __init__(self) -> None:
        self._fed: list[bytes] = []
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def fed(self, name: str, shape: Dims, dtype: str = "float32") -> str:
        """What is given to each run, under a name of its own."""
        self._fed.append(value(name, dtype, shape))
        return name

    def constant(self, array: Array) -> str:
        """Numbers that never change."""
        name = self._name("constant")
        self._constants.append(tensor(name, array))
        return name

    def scalar(self, number: float) -> str:
        """One number that never changes."""
        return self.constant(np.array(number, dtype=np.float32))

    def apply(
        self, operator: str | Operator, inputs: Sequence[str], **attributes: Attribute
    ) -> str:
        """The output of an operator: of ONNX by its name, or of another domain."""
        kind = ("", operator) if isinstance(operator, str) else operator
        name = self._name(kind[1])
        self._nodes.append(node(kind, inputs, name, attributes))
        return name

    def product(self, x: str, weight: Floats | Codes, bias: Floats | None) -> str:
        """``x W^T + b`` for a weight ``[d_out, d_in]``; activations stay in float32.

        The operator `MatMulNBits` unpacks codes as it goes; accuracy level 0 leaves its input in
        float32, which finite differences need.
        """
        if isinstance(weight, Codes) and weight.scheme.kind == "nf4":
            weight = weight.rows(slice(None))
        if isinstance(weight, Codes):
            y = self._few_bits(x, weight)
        else:
            y = self.apply("MatMul", (x, self.constant(np.ascontiguousarray(weight.T))))
        return y if bias is None else self.apply("Add", (y, self.constant(bias)))

    def _few_bits(self, x: str, weight: Codes) -> str:
        rows, columns = weight.shape
        bits, group = weight.scheme.bits, weight.scheme.group or _BLOCK
        blocks = -(-columns // group)
        width = blocks * group * bits // 8
        if weight.scheme.group:  # the stored bytes are those that the operator wants
            codes, scale = weight.codes, weight.scale
        else:
            codes = weight.codes.view(np.uint8) ^ np.uint8(128)
            codes = np.pad(codes, ((0, 0), (0, width - columns)), constant_values=128)
            scale = np.repeat(weight.scale[:, None], blocks, axis=1)
        shaped = np.ascontiguousarray(codes).view(np.uint8).reshape(rows, blocks, -1)
        return self.apply(
            ("com.microsoft", "MatMulNBits"),
            (x, self.constant(shaped), self.constant(scale)),
            K=columns,
            N=rows,
            bits=bits,
            block_size=group,
            accuracy_level=0,
        )

    def written(self, output: str, shape: Dims) -> bytes:
        """The model, of one output."""
        named = self.apply("Identity", (output,))
        return model(
            self._nodes,
            inputs=self._fed,
            outputs=(value(named, "float32", shape),),
            constants=self._constants,
        )

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"
