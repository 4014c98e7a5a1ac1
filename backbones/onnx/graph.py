"""A graph of operators as it grows: names are made up on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.proto import (
    Array,
    Attribute,
    Chunks,
    Dims,
    Operator,
    model,
    node,
    tensor,
    value,
)
from fedloom.backbones.onnx.weights import Codes, Floats

__all__ = ["Graph", "Written"]


@dataclass(frozen=True, eq=False)
class Written:
    """A graph as it is run.

    Attributes:
        model: an ONNX model.
        kept: what is fed to every run, by name.
    """

    model: bytes
    kept: Mapping[str, NDArray[np.int8]]


class Graph:
    """Nodes, what is fed to them, and what is constant.

    Attributes:
        kept: what is fed to every run, by name.
    """

    def __init__(self) -> None:
        self.kept: dict[str, NDArray[np.int8]] = {}
        self._fed: list[bytes] = []
        self._nodes: list[bytes] = []
        self._constants: list[Chunks] = []
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

    def _kept(self, array: NDArray[np.int8]) -> str:
        name = self._name("kept")
        self.kept[name] = array
        return self.fed(name, array.shape, "int8")

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

        Four bits are unpacked by the operator `MatMulNBits`, whose accuracy level 0 leaves its
        input in float32, which finite differences need. With eight bits that operator takes 40 MB
        of memory more for MiniLM than dequantizing a matrix at a time. For that the codes are fed:
        onnxruntime would make constant ones into a product that rounds its input to 8 bits, or
        keep them in float32.

        Args:
            x: name of the inputs, ``[r, n, d_in]``.
            weight: as it is stored.
            bias: ``[d_out]``; None for none.
        """
        if isinstance(weight, Codes) and weight.scheme.kind == "nf4":
            weight = weight.rows(slice(None))
        if not isinstance(weight, Codes):
            y = self.apply("MatMul", (x, self.constant(weight.T)))
        elif weight.scheme.bits == 4:
            y = self._four_bits(x, weight)
        else:
            y = self.apply("MatMul", (x, self._eight_bits(x, weight)))
        return y if bias is None else self.apply("Add", (y, self.constant(bias)))

    def _eight_bits(self, x: str, weight: Codes) -> str:
        """The matrix ``[d_in, d_out]``, dequantized once its input is there."""
        codes = self._kept(np.ascontiguousarray(weight.codes.T))
        scale = self._after(x, weight.scale.T)
        if not weight.scheme.group:
            return self.apply("DequantizeLinear", (codes, scale), axis=1)
        group = weight.scheme.group
        return self.apply("DequantizeLinear", (codes, scale), axis=0, block_size=group)

    def _after(self, x: str, array: Floats) -> str:
        """A constant that is not there before x is: it is sliced up to what depends on x's size.

        onnxruntime runs what depends on nothing first, and would hold all matrices at once.
        """
        tokens = self.apply("Shape", (x,), start=1, end=2)
        many = self.constant(np.array([2**40], dtype=np.int64))
        stop = self.apply("Mul", (tokens, many))
        first = self.constant(np.array([0], dtype=np.int64))
        return self.apply("Slice", (self.constant(array), first, stop, first))

    def _four_bits(self, x: str, weight: Codes) -> str:
        """The operator takes the 4-bit numbers less 8.

        Least values are added for each group: with l' = l + 8 s, the product is that of
        ``(q - 8) s`` and, with the sums of inputs over groups, that of l'.
        """
        y = self._less_eight(x, weight)
        if weight.least is None:
            return y
        groups = (0, 0, weight.least.shape[1], weight.scheme.group)
        shape = self.constant(np.array(groups, dtype=np.int64))  # 0: as before
        last = self.constant(np.array([-1], dtype=np.int64))
        sums = self.apply("ReduceSum", (self.apply("Reshape", (x, shape)), last), keepdims=0)
        least = weight.least + np.float32(8) * weight.scale
        return self.apply("Add", (y, self.apply("MatMul", (sums, self.constant(least.T)))))

    def _less_eight(self, x: str, weight: Codes) -> str:
        """The stored bytes are those that the operator wants."""
        rows, columns = weight.shape
        group = weight.scheme.group
        return self.apply(
            ("com.microsoft", "MatMulNBits"),
            (
                x,
                self.constant(weight.codes.reshape(rows, columns // group, group // 2)),
                self.constant(weight.scale),
            ),
            K=columns,
            N=rows,
            bits=4,
            block_size=group,
            accuracy_level=0,
        )

    def written(self, output: str, shape: Dims) -> Written:
        """The model, of one output."""
        named = self.apply("Identity", (output,))
        made = model(
            self._nodes,
            inputs=self._fed,
            outputs=(value(named, "float32", shape),),
            constants=self._constants,
        )
        return Written(made, self.kept)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"
