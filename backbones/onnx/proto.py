"""ONNX models as bytes: the few messages of ``onnx.proto`` that a graph of blocks is made of.

Written by hand, since the `onnx` package would take 14 MB of downloads for this. A message is its
fields one after the other, each a key (``number << 3 | wire type``) and its contents; see
https://protobuf.dev/programming-guides/encoding and https://onnx.ai/onnx/repo-docs/IR.html.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.core.octets import varint

__all__ = ["Array", "Attribute", "Chunks", "Dims", "Operator", "model", "node", "tensor", "value"]

Array: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8] | NDArray[np.int64]
Attribute: TypeAlias = int | float | str | Sequence[int]
Dims: TypeAlias = Sequence[int | str]
Chunks: TypeAlias = list[bytes | memoryview]
"""A message in pieces, so that large constants are copied once."""
Operator: TypeAlias = tuple[str, str]
"""A domain (empty for ONNX's own) and the name of an operator in it."""

_IR = 10  # that of ONNX 1.16: the first with opset 21, which dequantizes groups
_OPSETS = {"": 21, "com.microsoft": 1}
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7, "float16": 10, "bfloat16": 16}
_VARINT, _FIXED32, _BYTES = 0, 5, 2


def model(
    nodes: Iterable[bytes],
    *,
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    constants: Iterable[Chunks],
) -> bytes:
    """A ``ModelProto``.

    Args:
        nodes: in the order in which they can run.
        inputs: what is fed, as `value` makes it.
        outputs: what is asked for, as `value` makes it.
        constants: as `tensor` makes them.
    """
    graph: Chunks = [
        *(_field(1, each) for each in nodes),
        _text(2, "blocks"),
        *(chunk for each in constants for chunk in _wrapped(5, each)),
        *(_field(11, each) for each in inputs),
        *(_field(12, each) for each in outputs),
    ]
    opsets = (_text(1, domain) + _number(2, version) for domain, version in _OPSETS.items())
    return b"".join((_number(1, _IR), *_wrapped(7, graph), *(_field(8, each) for each in opsets)))


def node(
    operator: Operator,
    inputs: Sequence[str],
    output: str,
    attributes: Mapping[str, Attribute],
) -> bytes:
    """A ``NodeProto`` with one output, which names it, too."""
    domain, kind = operator
    return b"".join(
        (
            *(_text(1, name) for name in inputs),
            _text(2, output),
            _text(3, output),
            _text(4, kind),
            *(_field(5, _attribute(*each)) for each in attributes.items()),
            _text(7, domain),
        )
    )


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    if isinstance(value, float):
        return _text(1, name) + _key(2, _FIXED32) + struct.pack("<f", value) + _number(20, 1)
    if isinstance(value, str):
        return _text(1, name) + _text(4, value) + _number(20, 3)
    return _text(1, name) + b"".join(_number(8, each) for each in value) + _number(20, 7)


def tensor(name: str, array: Array) -> Chunks:
    """A ``TensorProto``."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return [
        *(_number(1, size) for size in plain.shape),
        _number(2, _TYPES[array.dtype.name]),
        _text(8, name),
        *_wrapped(9, [plain.reshape(-1).view(np.uint8).data]),
    ]


def value(name: str, dtype: str, shape: Dims) -> bytes:
    """A ``ValueInfoProto``: numbers of some sizes; what varies has a name for a size."""
    sizes = (_number(1, each) if isinstance(each, int) else _text(2, each) for each in shape)
    dims = b"".join(_field(1, each) for each in sizes)
    kind = _number(1, _TYPES[dtype]) + _field(2, dims)
    return _text(1, name) + _field(2, _field(1, kind))


def _key(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _number(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _field(number: int, contents: bytes) -> bytes:
    return _key(number, _BYTES) + varint(len(contents)) + contents


def _wrapped(number: int, contents: Chunks) -> Chunks:
    return [_key(number, _BYTES) + varint(sum(map(len, contents))), *contents]


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())
