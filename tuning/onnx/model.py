"""A frozen backbone as ONNX graphs, with an adapter and a head: what devices without torch train.

Its layout and its start are those of `fedloom.tuning.fused_model.FusedModel`, to the bit.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fedloom.backbones.allocator import give_back
from fedloom.backbones.base import Linear
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.folder import read_config
from fedloom.backbones.formats import Scheme
from fedloom.backbones.onnx.blocks import blocks_graph
from fedloom.backbones.onnx.embedding import text_embedding
from fedloom.backbones.onnx.footprint import Footprint, footprint
from fedloom.backbones.onnx.runner import Runner, runtime_here
from fedloom.backbones.onnx.weights import open_weights
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.core.types import Params
from fedloom.tuning.base import Catalog, Frozen, Part, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.onnx.sites import check_part, sites_of

__all__ = ["OnnxModel"]

_ADAPTERS = ("lora", "ia3", "bottleneck", "head")
_HEAD = "classifier"


class OnnxModel:
    """A classifier over a frozen backbone, forwards only.

    Attributes:
        shape: of the backbone.
        task: what it is trained for.
        composition: the parts of the adapter and the head.
        embedding: makes the first hidden states.

    Args:
        folder: of the backbone.
        adapter: which adapter, with its options.
        task: what it is trained for.
        threads: of its products (0: as many as onnxruntime likes).

    Raises:
        ModelError: the folder holds no model that graphs are made of, or onnxruntime is missing.
        ConfigError: graphs have no such adapter, or no such task.
    """

    def __init__(self, folder: Path, adapter: Component, task: Task, *, threads: int = 0) -> None:
        _check(adapter, task)
        runtime_here()  # better missed before anything is read
        self.shape, self.task, self._threads = read_shape(read_config(folder)), task, threads
        if self.shape.family != "bert":
            text = f"model_type = {self.shape.family!r}: the engine onnx has 'bert'"
            raise ModelError(f"{text}; other families need torch")
        self._weights = open_weights(folder)
        self.embedding = text_embedding(self.shape, self._weights)
        inner: Sequence[Part] = create("adapters", adapter).parts(_catalog(self.shape))  # type: ignore[attr-defined]
        for part in inner:
            check_part(part)
        linear = Linear(_HEAD, "head", self.shape.width, task.classes)
        self._head = HeadPart(linear, init=task.head_init)
        self.composition = Composition((*inner, self._head))
        self._weights.release()
        self._runners: dict[tuple[str, ...], tuple[Runner | None, Runner | None]] = {}

    @property
    def layout(self) -> Layout:
        """The tensors that a client may train."""
        return self.composition.layout

    def initial(self, seed: int) -> Params:
        """The model before the first round."""
        return self.composition.initial(seed)

    def footprint(self, will_be: Scheme | None = None) -> Footprint:
        """What its graphs take of memory; see `footprint`."""
        return footprint(self.shape, self._weights, will_be)

    def active(self, params: Params, trained: Layout) -> tuple[Part, ...]:
        """The parts inside the blocks that train, or that change the model as it is."""
        found = self.composition.active(params, trained)
        return tuple(part for part in found if part is not self._head)

    def cut(self, parts: Sequence[Part]) -> int:
        """The lowest layer that has a part: below it nothing ever changes."""
        layers = [int(part.specs[0].block.removeprefix("layer.")) for part in parts]
        return min(layers, default=self.shape.depth)

    def runners(self, parts: Sequence[Part]) -> tuple[Runner | None, Runner | None]:
        """What runs the blocks below the lowest part, and those from it on; None for no block.

        The graphs of the parts that were asked for last are kept.
        """
        key = tuple(spec.name for part in parts for spec in part.specs)
        if key not in self._runners:
            self._runners.clear()
            cut, depth = self.cut(parts), self.shape.depth
            found = (self._runner(span, parts) for span in (range(cut), range(cut, depth)))
            below, above = found
            self._runners[key] = below, above
            give_back()
        return self._runners[key]

    def _runner(self, layers: range, parts: Sequence[Part]) -> Runner | None:
        if not layers:
            return None
        graph = blocks_graph(self.shape, self._weights, layers, sites_of(parts, ""))
        self._weights.release()
        give_back()
        return Runner(graph, self._threads)

    @cached_property
    def flops_per_token(self) -> float:
        """Floating-point operations of the frozen products, forwards, for each token."""
        d, inner = self.shape.width, self.shape.inner
        return 2.0 * self.shape.depth * (4 * d * d + 2 * d * inner)


def _check(adapter: Component, task: Task) -> None:
    if adapter.name not in _ADAPTERS:
        known = ", ".join(_ADAPTERS)
        text = f"adapter.name = {adapter.name!r}: the engine onnx has {known}"
        raise ConfigError(f"{text}; others need torch")
    if task.kind != "classify":
        text = f"backbone.task = {task.kind!r}: the engine onnx has 'classify'"
        raise ConfigError(f"{text}; others need torch")
    if task.pooling not in ("mean", "last"):
        text = f"backbone.pooling = {task.pooling!r}: the engine onnx has 'mean' and 'last'"
        raise ConfigError(f"{text}; others need torch")
    if task.words:
        text = "backbone.head_init = 'words': the engine onnx has 'zeros' and 'normal'"
        raise ConfigError(f"{text}; words need torch")


def _catalog(shape: Shape) -> Catalog:
    """What an adapter may attach to, in the order of `FusedModel`."""
    family, d, inner = FAMILIES[shape.family], shape.width, shape.inner
    widths = {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "up": (d, inner)}
    widths["down"] = (inner, d)
    blocks = [f"layer.{i}" for i in range(shape.depth)]

    def of(parts: dict[str, tuple[int, int]]) -> tuple[Linear, ...]:
        return tuple(
            Linear(family.module(part, i), block, *size)
            for i, block in enumerate(blocks)
            for part, size in parts.items()
        )

    norms = of({"norm1": (d, d), "norm2": (d, d)})
    names = ("embeddings", *blocks, "head")
    return Catalog(shape.family, of(widths), norms, names, _no_frozen)


def _no_frozen(name: str) -> Frozen:
    raise ConfigError(f"module {name!r}: its own numbers train; that needs torch")
