"""What graphs of a backbone's blocks take of memory, from the shapes and the formats of weights."""

from dataclasses import dataclass

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.formats import Scheme
from fedloom.backbones.onnx.weights import Weights
from fedloom.backbones.shape import Shape

__all__ = ["Footprint", "footprint"]

_OWN = 5 * 10**6
"""Bytes of graphs and of what runs them, without weights. Measured, as are the factors below."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a backbone's weights in graphs.

    Attributes:
        constant: what is part of the graphs.
        fed: what is fed to every run.
        unpacked: of the largest matrix that is unpacked in whole for its product.
        mapped: rows of the embedding's file, of which more and more are read.
    """

    constant: int
    fed: int
    unpacked: int
    mapped: int

    @property
    def building(self) -> int:
        """Bytes while graphs are made: as written, as read, and as they are used."""
        return _OWN + 3 * self.constant + 2 * self.fed

    @property
    def running(self) -> int:
        """Bytes between two runs, and for a matrix with its product's copy within one."""
        return _OWN + self.constant * 5 // 4 + self.fed + 2 * self.unpacked + self.mapped


def footprint(shape: Shape, weights: Weights, will_be: Scheme | None = None) -> Footprint:
    """What graphs of all blocks take.

    Args:
        shape: of the backbone.
        weights: of the backbone.
        will_be: the format that matrices are yet to be stored in; None for that of `weights`.
    """
    family, d, inner = FAMILIES[shape.family], shape.width, shape.inner
    sizes = dict.fromkeys(("q", "k", "v", "o"), (d, d)) | {"up": (inner, d), "down": (d, inner)}
    constant = fed = unpacked = 0
    for layer in range(shape.depth):
        for part, (rows, columns) in sizes.items():
            names = family.stored_part(part, layer, "weight")
            scheme = will_be or weights.scheme(names)
            if scheme is None or scheme.kind == "nf4":  # the latter is unpacked once for all
                constant += 4 * rows * columns
                continue
            groups = rows * columns // (scheme.group or columns)
            constant += 4 * groups * (2 if scheme.raised else 1)
            codes = rows * columns * scheme.bits // 8
            if scheme.bits == 8:
                fed, unpacked = fed + codes, max(unpacked, 4 * rows * columns)
            else:
                constant += codes
    scheme = will_be or weights.scheme(family.stored(family.outer["tokens"], "weight"))
    bits = 32 if scheme is None else scheme.bits
    return Footprint(constant, fed, unpacked, shape.vocab * d * bits // 8)
