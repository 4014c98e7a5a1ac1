"""Named tensors as one flat float32 vector.

A `Layout` says which tensors a model exchanges, in which order, and where each lies in the flat
vector. Aggregation, codecs and optimizers work on the vector; only a backbone needs the names.
"""

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError

__all__ = ["ALL", "FIXED", "NONE", "SIDE", "Layout", "Selector", "TensorSpec", "Vector"]

Vector: TypeAlias = NDArray[np.float32]
Selector: TypeAlias = tuple[str, ...]

ALL: Selector = ("*",)
NONE: Selector = ()
SIDE, FIXED = "side", "fixed"
"""Tags of tensors that no client trains, whatever a selector says: what the server alone moves and
every client gets, and what stays as the seed makes it."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a layout.

    Attributes:
        name: unique name, in PEFT's naming where PEFT knows the tensor.
        shape: its shape; the flat vector holds it in C order.
        block: the block of the backbone that it belongs to, such as ``layer.3`` or ``head``.
        tags: what selectors may call it besides its name and block: ``lora``, ``A``, ``head``, ...
    """

    name: str
    shape: tuple[int, ...]
    block: str = ""
    tags: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def trains(self) -> bool:
        """Whether a client may train it: it is no tensor of the server's own, nor a fixed one."""
        return not self.tags & {SIDE, FIXED}

    def matches(self, pattern: str) -> bool:
        """Whether `pattern` is one of the tags, or a glob over the name or the block.

        Nothing matches a tensor that does not train.
        """
        return self.trains and (
            pattern in self.tags
            or fnmatch.fnmatchcase(self.name, pattern)
            or fnmatch.fnmatchcase(self.block, pattern)
        )


@dataclass(frozen=True)
class Layout:
    """An ordered set of named tensors laid end to end.

    >>> layout = Layout((TensorSpec("a", (2, 2)), TensorSpec("b", (3,), tags=frozenset({"head"}))))
    >>> layout.size, layout.span("b")
    (7, slice(4, 7, None))
    >>> layout.select(("head",)).names
    ('b',)
    """

    specs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.specs):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise LayoutError(f"layout: the name {twice!r} occurs twice; names must be unique")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Tensor names in order."""
        return tuple(spec.name for spec in self.specs)

    @cached_property
    def size(self) -> int:
        """Length P of the flat vector."""
        return sum(spec.size for spec in self.specs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes in order: equal digests, interchangeable vectors."""
        text = json.dumps([[spec.name, spec.shape] for spec in self.specs])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _slices(self) -> dict[str, slice]:
        slices, start = {}, 0
        for spec in self.specs:
            slices[spec.name] = slice(start, start + spec.size)
            start += spec.size
        return slices

    def __contains__(self, name: object) -> bool:
        return name in self._slices

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.specs)

    def span(self, name: str) -> slice:
        """Where the tensor `name` lies in the flat vector.

        Raises:
            LayoutError: the layout has no such tensor.
        """
        try:
            return self._slices[name]
        except KeyError:
            raise LayoutError(f"layout: no tensor {name!r}; it has {_some(self.names)}") from None

    def view(self, vector: Vector, name: str) -> Vector:
        """The tensor `name` as a view of `vector` (float32 ``[P]``), in its own shape."""
        shape = self.specs[self.names.index(name)].shape if name in self else ()
        return vector[self.span(name)].reshape(shape)

    def select(self, selector: Selector) -> "Layout":
        """The tensors that a selector names, in this layout's order.

        A pattern is a tag, or a glob over names or blocks; ``!pattern`` takes away from what the
        patterns before it chose. An empty selector chooses nothing.

        Raises:
            LayoutError: a pattern matches no tensor.
        """
        chosen: set[str] = set()
        for pattern in selector:
            hits = {spec.name for spec in self.specs if spec.matches(pattern.removeprefix("!"))}
            if not hits:
                raise LayoutError(f"selector {pattern!r} matches nothing; {self._vocabulary()}")
            chosen = chosen - hits if pattern.startswith("!") else chosen | hits
        return Layout(tuple(spec for spec in self.specs if spec.name in chosen))

    def present(self, selector: Selector) -> "Layout":
        """As `select`; nothing where a pattern matches no tensor."""
        try:
            return self.select(selector)
        except LayoutError:
            return Layout(())

    def _vocabulary(self) -> str:
        blocks = sorted({spec.block for spec in self.specs})
        tags = sorted({tag for spec in self.specs if spec.trains for tag in spec.tags})
        return f"blocks: {_some(blocks)}; tags: {_some(tags)}; names: {_some(self.names)}"

    def spans(self, part: "Layout") -> list[tuple[slice, slice]]:
        """Where `part` lies in this layout: ``[(slice here, slice in part)]``, runs merged.

        Raises:
            LayoutError: `part` has a tensor that this layout lacks or holds in another shape.
        """
        if part is self or part.specs == self.specs:
            return [(slice(0, self.size), slice(0, self.size))]
        spans: list[tuple[slice, slice]] = []
        shapes = {spec.name: spec.shape for spec in self.specs}
        for spec in part:
            if shapes.get(spec.name) != spec.shape:
                have = shapes.get(spec.name, "no such tensor")
                raise LayoutError(f"tensor {spec.name!r}: expected {have}, got {spec.shape}")
            here, there = self.span(spec.name), part.span(spec.name)
            if spans and spans[-1][0].stop == here.start and spans[-1][1].stop == there.start:
                last_here, last_there = spans.pop()
                here = slice(last_here.start, here.stop)
                there = slice(last_there.start, there.stop)
            spans.append((here, there))
        return spans

    def gather(self, vector: Vector, part: "Layout") -> Vector:
        """Copy the tensors of `part` out of `vector` (``[P]``) into a vector ``[part.size]``."""
        out = np.empty(part.size, dtype=vector.dtype)
        for here, there in self.spans(part):
            out[there] = vector[here]
        return out

    def scatter(self, vector: Vector, part: "Layout", values: Vector) -> Vector:
        """A copy of `vector` (``[P]``) in which the tensors of `part` are replaced by `values`."""
        out = vector.copy()
        for here, there in self.spans(part):
            out[here] = values[there]
        return out

    def flatten(self, tensors: dict[str, NDArray[np.generic]]) -> Vector:
        """Lay named arrays end to end as float32 ``[P]``.

        Raises:
            LayoutError: a tensor is missing or of another shape.
        """
        out = np.empty(self.size, dtype=np.float32)
        for spec in self.specs:
            if spec.name not in tensors or tensors[spec.name].shape != spec.shape:
                have = tensors[spec.name].shape if spec.name in tensors else "none"
                raise LayoutError(f"tensor {spec.name!r}: expected {spec.shape}, got {have}")
            out[self.span(spec.name)] = tensors[spec.name].reshape(-1)
        return out

    def unflatten(self, vector: Vector) -> dict[str, Vector]:
        """Named views of `vector` (float32 ``[P]``)."""
        return {spec.name: vector[self.span(spec.name)].reshape(spec.shape) for spec in self.specs}

    @staticmethod
    def concat(parts: Iterable["Layout"]) -> "Layout":
        """The tensors of several layouts, end to end."""
        return Layout(tuple(spec for part in parts for spec in part))


def _some(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown + (f", ... ({len(names)} in all)" if len(names) > limit else "")
