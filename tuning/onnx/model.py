"""A frozen backbone as ONNX graphs, with an adapter and a head: what devices without torch train.

Its layout and its start are those of `fedloom.tuning.fused_model.FusedModel`, to the bit.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from fedloom.backbones.allocator import give_back, return_large_blocks
from fedloom.backbones.base import Linear
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.folder import read_config
from fedloom.backbones.formats import Scheme
from fedloom.backbones.onnx.blocks import Site, blocks_graph
from fedloom.backbones.onnx.chain import Chain, spans
from fedloom.backbones.onnx.embedding import text_embedding
from fedloom.backbones.onnx.footprint import Footprint, footprint
from fedloom.backbones.onnx.linears import check_family, linears_of
from fedloom.backbones.onnx.runner import Runner, runtime_here
from fedloom.backbones.onnx.weights import Weights, open_weights
from fedloom.backbones.onnx.words import WordHead, word_matrix
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.core.types import Params
from fedloom.tuning.base import Catalog, Frozen, Part, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.onnx.sites import check_part, sites_of

__all__ = ["ADAPTERS", "OnnxModel"]

ADAPTERS = ("lora", "ia3", "bottleneck", "head")


class OnnxModel:
    """A classifier or a language model over a frozen backbone, forwards only.

    Attributes:
        shape: of the backbone.
        task: what it is trained for.
        base: what its module names begin with, beside the backbone's.
        composition: the parts of the adapter and the head.
        embedding: makes the first hidden states.
        head: a classifier's; None where words are learned.

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
        runtime_here()  # better missed before anything is read
        self.shape, self.task, self._threads = read_shape(read_config(folder)), task, threads
        check_family(self.shape)
        _check(adapter, task, self.shape)
        self._weights = open_weights(folder)
        self.embedding = text_embedding(self.shape, self._weights)
        self.base = f"{FAMILIES[self.shape.family].prefix}." if _is_whole(task) else ""
        inner: Sequence[Part] = create("adapters", adapter).parts(  # type: ignore[attr-defined]
            _catalog(self.shape, self.base)
        )
        for part in inner:
            check_part(part)
        self.head = None if task.kind == "causal-lm" else _head(self.shape, self._weights, task)
        heads = () if self.head is None else (self.head,)
        self._matrix = None
        if self.head is None:
            return_large_blocks()  # parts of the vocabulary, widened, left 300 MB of holes
            self._matrix = word_matrix(self.shape, self._weights, self.embedding.tokens)
        self.composition = Composition((*inner, *heads))
        self._weights.release()
        self._runners: dict[tuple[str, ...], tuple[Chain | None, Chain | None]] = {}

    @property
    def layout(self) -> Layout:
        """The tensors that a client may train."""
        return self.composition.layout

    def initial(self, seed: int) -> Params:
        """The model before the first round."""
        return self.composition.initial(seed)

    def footprint(self, will_be: Scheme | None = None) -> Footprint:
        """What its graphs take of memory; see `footprint`."""
        words = self.head is None
        return footprint(self.shape, self._weights, will_be, words=words)

    def active(self, params: Params, trained: Layout) -> tuple[Part, ...]:
        """The parts inside the blocks that train, or that change the model as it is."""
        found = self.composition.active(params, trained)
        return tuple(part for part in found if part is not self.head)

    def cut(self, parts: Sequence[Part]) -> int:
        """The lowest layer that has a part: below it nothing ever changes."""
        layers = [int(part.specs[0].block.removeprefix("layer.")) for part in parts]
        return min(layers, default=self.shape.depth)

    def runners(self, parts: Sequence[Part]) -> tuple[Chain | None, Chain | None]:
        """What runs the blocks below the lowest part, and those from it on; None for no block.

        The graphs of the parts that were asked for last are kept.
        """
        key = tuple(spec.name for part in parts for spec in part.specs)
        if key not in self._runners:
            self._runners.clear()
            cut, depth = self.cut(parts), self.shape.depth
            found = (self._chain(span, parts) for span in (range(cut), range(cut, depth)))
            below, above = found
            self._runners[key] = below, above
        return self._runners[key]

    def _chain(self, layers: range, parts: Sequence[Part]) -> Chain | None:
        if not layers:
            return None
        sites = sites_of(parts, self.base)
        pieces = spans(layers, self.shape.depth, self.footprint())
        return Chain([self._runner(piece, sites, one=len(pieces) == 1) for piece in pieces])

    def _runner(self, layers: range, sites: Mapping[str, Site], *, one: bool) -> Runner:
        graph = blocks_graph(self.shape, self._weights, layers, sites)
        self._weights.release()
        give_back()
        found = Runner(graph, self._threads, arena=one, alone=one and self.head is not None)
        del graph
        give_back()
        return found

    @cached_property
    def words(self) -> WordHead:
        """The frozen head of a language model."""
        assert self._matrix is not None  # it is asked for where words are learned
        found = WordHead(self._matrix, self._threads)
        self._weights.release()
        give_back()
        return found

    @cached_property
    def flops_per_token(self) -> float:
        """Floating-point operations of the frozen products, forwards, for each token."""
        return 2.0 * self.shape.depth * sum(a * b for a, b in linears_of(self.shape).values())


def _is_whole(task: Task) -> bool:
    """Whether the model is one of transformers' with its own head; see `heads.owns_head`."""
    return task.pooling == "model" or task.kind == "causal-lm"


def _check(adapter: Component, task: Task, shape: Shape) -> None:
    if adapter.name not in ADAPTERS:
        known = ", ".join(ADAPTERS)
        text = f"adapter.name = {adapter.name!r}: the engine onnx has {known}"
        raise ConfigError(f"{text}; others need torch")
    if task.kind == "causal-lm" and shape.causal:
        return
    if task.kind != "classify":
        known = "'classify' and 'causal-lm'" if shape.causal else "'classify' for this backbone"
        text = f"backbone.task = {task.kind!r}: the engine onnx has {known}"
        raise ConfigError(f"{text}; others need torch")
    poolings = ("mean", "last", "model") if shape.causal else ("mean", "last")
    if task.pooling not in poolings:
        known = " and ".join(map(repr, poolings))
        text = f"backbone.pooling = {task.pooling!r}: the engine onnx has {known}"
        raise ConfigError(f"{text}; others need torch")
    if task.words:
        text = "backbone.head_init = 'words': the engine onnx has 'zeros' and 'normal'"
        raise ConfigError(f"{text}; words need torch")


def _head(shape: Shape, weights: Weights, task: Task) -> HeadPart:
    """A classifier's head: new, or of a model with its own the checkpoint's, which has no bias."""
    own = task.pooling == "model"
    linear = Linear("score" if own else "classifier", "head", shape.width, task.classes)
    weight = None
    if own:
        names = [(f"{name}.weight",) for name in ("classifier", "score")]
        found = next((each for each in names if weights.has(each)), None)
        weight = None if found is None else weights.find(found)
        if weight is not None and weight.shape != (task.classes, shape.width):
            weight = None
    return HeadPart(linear, weight=weight, has_bias=not own, init=task.head_init)


def _catalog(shape: Shape, base: str) -> Catalog:
    """What an adapter may attach to, in the order of `FusedModel`."""
    family, d = FAMILIES[shape.family], shape.width
    blocks = [f"layer.{i}" for i in range(shape.depth)]

    def of(parts: dict[str, tuple[int, int]]) -> tuple[Linear, ...]:
        return tuple(
            Linear(base + family.module(part, i), block, d_in, d_out)
            for i, block in enumerate(blocks)
            for part, (d_out, d_in) in parts.items()
        )

    norms = of({"norm1": (d, d), "norm2": (d, d)})
    final = ["final"] if "final" in family.outer else []
    names = ("embeddings", *blocks, *final, "head")
    return Catalog(shape.family, of(linears_of(shape)), norms, names, _no_frozen)


def _no_frozen(name: str) -> Frozen:
    raise ConfigError(f"module {name!r}: its own numbers train; that needs torch")
