"""What graphs of a backbone take of memory, from the shapes and the formats of weights."""

from dataclasses import dataclass

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.formats import Scheme
from fedloom.backbones.onnx.linears import linears_of
from fedloom.backbones.onnx.weights import Weights
from fedloom.backbones.onnx.words import WORDS, word_names
from fedloom.backbones.shape import Shape

__all__ = ["GRAPH", "Footprint", "footprint"]

GRAPH = 24 * 10**6
"""Bytes of constants in one graph of blocks at most, but for a single block of more."""
_OWN = 5 * 10**6
"""Bytes of graphs and of what runs them, without weights. Measured, as are the factors below."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a backbone's weights in graphs.

    Attributes:
        constant: what is part of the graphs.
        fed: what is fed to every run: pages of files, mostly.
        unpacked: of the largest matrix that is widened in whole for its product.
        mapped: rows of the embedding's file, of which more and more are read.
        words: what is part of the graphs of a language-model head.
    """

    constant: int
    fed: int
    unpacked: int
    mapped: int
    words: int = 0

    @property
    def building(self) -> int:
        """Bytes while graphs are made: as written, as read, and as they are used."""
        return self.running + 2 * min(self.constant + self.words, GRAPH)

    @property
    def running(self) -> int:
        """Bytes between two runs, and for matrices as they are widened within one."""
        kept = (self.constant + self.words) * 5 // 4
        return _OWN + kept + self.fed + 6 * self.unpacked + self.mapped


@dataclass
class _Sum:
    """Matrices as they come."""

    constant: int = 0
    fed: int = 0
    unpacked: int = 0

    def add(
        self, rows: int, columns: int, scheme: Scheme | None, item: int, *, at_once: int = 0
    ) -> None:
        """A matrix, of which so many rows are multiplied with at once (0: all)."""
        wide = 4 * (at_once or rows) * columns
        if scheme is None or scheme.kind == "nf4":  # the latter is unpacked once for all
            item = 4 if scheme is not None else item
            self.fed += item * rows * columns
            self.unpacked = max(self.unpacked, wide if item < 4 else 0)
            return
        groups = 4 * (rows * columns // (scheme.group or columns)) * (2 if scheme.raised else 1)
        if scheme.bits == 8:
            self.fed += rows * columns + groups
            self.unpacked = max(self.unpacked, wide)
        else:
            self.constant += rows * columns // 2 + groups


def footprint(
    shape: Shape, weights: Weights, will_be: Scheme | None = None, *, words: bool = False
) -> Footprint:
    """What graphs of all blocks take.

    Args:
        shape: of the backbone.
        weights: of the backbone.
        will_be: the format that matrices are yet to be stored in; None for that of `weights`.
        words: its language-model head is run, too.
    """
    family, blocks, head = FAMILIES[shape.family], _Sum(), _Sum()
    for layer in range(shape.depth):
        for part, size in linears_of(shape).items():
            names = family.stored_part(part, layer, "weight")
            blocks.add(*size, will_be or weights.scheme(names), weights.item(names))
    tokens = family.stored(family.outer["tokens"], "weight")
    table = _Sum()
    table.add(shape.vocab, shape.width, will_be or weights.scheme(tokens), weights.item(tokens))
    mapped = table.constant + table.fed
    if words:
        names, size = word_names(shape), (shape.vocab, shape.width)
        scheme, item = will_be or weights.scheme(names), weights.item(names)
        head.add(*size, scheme, item, at_once=min(WORDS, shape.vocab))
        mapped = 0 if shape.tied and head.fed else mapped
    unpacked = max(blocks.unpacked, head.unpacked)
    return Footprint(blocks.constant, blocks.fed + head.fed, unpacked, mapped, head.constant)
