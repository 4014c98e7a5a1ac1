"""A graph of operators as it grows: names are made up on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.matrices import Codes, Floats, Matrix, Plain
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

__all__ = ["Graph", "Written"]

_PRODUCT: Operator = ("com.microsoft", "FusedMatMul")


@dataclass(frozen=True, eq=False)
class Written:
    """A graph as it is run.

    Attributes:
        model: an ONNX model.
        fed: names of what each run is given.
        kept: what is the same for every run, by name; uint16 are bits of bfloat16.
    """

    model: bytes
    fed: frozenset[str]
    kept: Mapping[str, NDArray[Any]]


class Graph:
    """Nodes, what is fed to them, and what is constant."""

    def __init__(self) -> None:
        self._given: list[str] = []
        self._kept: dict[str, NDArray[Any]] = {}
        self._inputs: list[bytes] = []
        self._nodes: list[bytes] = []
        self._constants: list[Chunks] = []
        self._count = 0

    def fed(self, name: str, shape: Dims, dtype: str = "float32") -> str:
        """What is given to each run, under a name of its own."""
        self._given.append(name)
        self._inputs.append(value(name, dtype, shape))
        return name

    def constant(self, array: Array) -> str:
        """Numbers that never change."""
        name = self._name("constant")
        self._constants.append(tensor(name, array))
        return name

    def scalar(self, number: float) -> str:
        """One number that never changes."""
        return self.constant(np.array(number, dtype=np.float32))

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        """Some of a tensor along an axis."""
        ends = (self.constant(np.array([each], dtype=np.int64)) for each in (start, stop, axis))
        return self.apply("Slice", (x, *ends))

    def keep(self, array: NDArray[Any]) -> str:
        """What is the same for every run, fed from where it lies: a file's pages, mostly."""
        name = self._name("kept")
        # Files older than the format's rule of eight bytes may have them anywhere.
        self._kept[name] = np.require(array, requirements=("C", "A"))
        dtype = "bfloat16" if array.dtype == np.uint16 else array.dtype.name
        self._inputs.append(value(name, dtype, array.shape))
        return name

    def apply(
        self, operator: str | Operator, inputs: Sequence[str], **attributes: Attribute
    ) -> str:
        """The output of an operator: of ONNX by its name, or of another domain."""
        kind = ("", operator) if isinstance(operator, str) else operator
        name = self._name(kind[1])
        self._nodes.append(node(kind, inputs, name, attributes))
        return name

    def product(self, x: str, weight: Matrix, bias: Floats | None) -> str:
        """``x W^T + b`` for a weight ``[d_out, d_in]``; activations stay in float32.

        Four bits are unpacked by the operator `MatMulNBits`, whose accuracy level 0 leaves its
        input in float32, which finite differences need. It takes 2.2 times as long where its codes
        are fed, so they are constant. Anything else is fed as it lies in its file, and widened a
        matrix at a time: of constant 8-bit codes onnxruntime would make a product that rounds its
        input to 8 bits, or keep them in float32.

        Args:
            x: name of the inputs, ``[r, n, d_in]``.
            weight: as it is stored.
            bias: ``[d_out]``; None for none.
        """
        if isinstance(weight, Codes) and weight.scheme.kind == "nf4":
            weight = Plain(weight.rows(slice(None)))
        if isinstance(weight, Codes) and weight.scheme.bits == 4:
            y = self._four_bits(x, weight)
        elif isinstance(weight, Codes):
            y = self.apply(_PRODUCT, (x, self._eight_bits(x, weight)), transB=1)
        else:
            own = self._widened(x, weight.raw)
            y = self.apply(_PRODUCT, (x, own), transB=int(not weight.turned))
        return y if bias is None else self.apply("Add", (y, self.constant(bias)))

    def _widened(self, x: str, raw: NDArray[Any]) -> str:
        if raw.dtype == np.float32:
            return self.keep(raw)
        return self.apply("Cast", (self._after(x, raw),), to=1)

    def _eight_bits(self, x: str, weight: Codes) -> str:
        """The matrix ``[d_out, d_in]``, dequantized once its input is there."""
        codes, scale = self._after(x, weight.codes), self.keep(weight.scale)
        if not weight.scheme.group:
            return self.apply("DequantizeLinear", (codes, scale), axis=0)
        group = weight.scheme.group
        return self.apply("DequantizeLinear", (codes, scale), axis=1, block_size=group)

    def _after(self, x: str, array: NDArray[Any]) -> str:
        """What is kept, but not there before x is: its shape is up to what depends on x's size.

        onnxruntime runs what depends on nothing first, and would hold all matrices at once.
        """
        tokens = self.apply("Shape", (x,), start=1, end=2)
        many = self.constant(np.array([2**40], dtype=np.int64))
        stop = self.apply("Mul", (tokens, many))
        first = self.constant(np.array([0], dtype=np.int64))
        shape = self.constant(np.array(array.shape, dtype=np.int64))
        shape = self.apply("Slice", (shape, first, stop, first))
        return self.apply("Reshape", (self.keep(array), shape))

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
            inputs=self._inputs,
            outputs=(value(named, "float32", shape),),
            constants=self._constants,
        )
        return Written(made, frozenset(self._given), self._kept)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"
