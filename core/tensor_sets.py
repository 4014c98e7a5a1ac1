"""Some of a model's tensors, in few bytes.

A zero and a bit mask over the model's tensors; or, where they stand in another order than the
model's, a one, how many there are, and their numbers.
"""

import numpy as np

from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.octets import Octets, varint, varints

__all__ = ["read_tensors", "tensors"]


def tensors(part: Layout, layout: Layout) -> bytes:
    """Which of a model's tensors `part` has, in its order.

    Raises:
        CodecError: the model lacks one (``layout``).
    """
    places = {spec.name: i for i, spec in enumerate(layout)}
    for spec in part:
        if spec.name not in places or layout.specs[places[spec.name]].shape != spec.shape:
            raise CodecError(f"tensors: the model has no tensor {spec.name!r}", code="layout")
    numbers = [places[spec.name] for spec in part]
    if numbers == sorted(numbers):
        mask = np.zeros(len(layout.specs), dtype=np.uint8)
        mask[numbers] = 1
        return b"\x00" + np.packbits(mask, bitorder="little").tobytes()
    return b"\x01" + varint(len(numbers)) + varints(numbers)


def read_tensors(octets: Octets, layout: Layout) -> Layout:
    """The tensors of a model that `tensors` wrote.

    Raises:
        CodecError: the model lacks one, or one is there twice (``layout``).
    """
    total = len(layout.specs)
    if octets.byte():
        numbers = octets.varints(octets.count())
    else:
        packed = np.frombuffer(octets.take(-(-total // 8)), np.uint8)
        numbers = np.flatnonzero(np.unpackbits(packed, bitorder="little")).tolist()
    if len(set(numbers)) != len(numbers) or max(numbers, default=0) >= max(total, 1):
        raise CodecError(f"tensors: one twice, or beyond the {total} of the model", code="layout")
    return Layout(tuple(layout.specs[i] for i in numbers))
