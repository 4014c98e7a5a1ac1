"""The fused engine: a backbone of hand-written blocks as a `CohortModel`.

Neither transformers nor peft is imported.
"""

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones.base import Linear, Sites
from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.mask_head import MaskHead
from fedloom.backbones.packing import Read
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Adapter, Catalog, Part, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples
from fedloom.tuning.exported import Exported
from fedloom.tuning.frozen import FrozenModules
from fedloom.tuning.full import FullPart
from fedloom.tuning.fused_session import FusedSession
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.heads import owns_head
from fedloom.tuning.peft_format import exported_for
from fedloom.tuning.prefix import CacheLimits, PrefixCache
from fedloom.tuning.recall import Recall
from fedloom.tuning.word_heads import Start

__all__ = ["FusedModel"]

HEAD = "head"
SCORE = ("llama", "qwen2", "gpt2")
"""Families whose sequence classifier is called ``score`` and has no bias."""


class FusedModel:
    """A fused backbone that trains k clients at once.

    Args:
        backbone: the frozen side.
        adapter: what is attached.
        task: what it is trained for.
        head: weight and bias that the head starts with; None where it starts as the task says.
        mask_head: what hidden states at the mask go through, where the task reads them there.
        held: the blocks whose parts this side has; None for all. See `holding`.
    """

    batched = True
    note = ""

    def __init__(
        self,
        backbone: FusedBackbone,
        adapter: Adapter,
        task: Task,
        *,
        head: Start | None = None,
        mask_head: MaskHead | None = None,
        held: Collection[str] | None = None,
    ) -> None:
        self.backbone, self.adapter, self.task = backbone, adapter, task
        self.depth = backbone.shape.depth
        layers = {f"layer.{i}" for i in range(self.depth)}
        self._own_depth = self.depth if held is None else len(layers.intersection(held))
        self.mask_head = mask_head
        self.base = "" if owns_head(task) else f"{backbone.prefix}."
        self.catalog = self._make_catalog()
        heads = [] if task.kind == "causal-lm" else [self._head(head)]
        self.head_name = heads[0].module if heads else ""
        self._given, parts = head, (*adapter.parts(self.catalog), *heads)
        self.composition = Composition(
            tuple(p for p in parts if held is None or p.specs[0].block in held)
        )

    def holding(self, blocks: Collection[str]) -> "FusedModel":
        """One side of this model where it is split: only the parts of some blocks are its own."""
        return FusedModel(
            self.backbone,
            self.adapter,
            self.task,
            head=self._given,
            mask_head=self.mask_head,
            held=blocks,
        )

    def _make_catalog(self) -> Catalog:
        backbone, base = self.backbone, self.base
        tensors = FrozenModules(backbone)

        def named(linear: Linear) -> Linear:
            return Linear(base + linear.name, linear.block, linear.d_in, linear.d_out)

        return Catalog(
            backbone.shape.family,
            tuple(named(linear) for linear in backbone.linears),
            tuple(named(norm) for norm in backbone.norms),
            (*backbone.blocks, HEAD),
            lambda name: tensors.of(name.removeprefix(base)),
            lambda name: tensors.stored(name.removeprefix(base)),
            lambda name: tensors.start(name.removeprefix(base)),
        )

    def _head(self, given: Start | None) -> HeadPart:
        family, task = self.backbone.shape.family, self.task
        scored = task.pooling == "model" and family in SCORE
        name = "score" if scored else "classifier"
        linear = Linear(name, HEAD, self.backbone.shape.width, task.classes)
        weight, bias = given or (None, None)
        return HeadPart(linear, weight=weight, bias=bias, has_bias=not scored, init=task.head_init)

    @property
    def layout(self) -> Layout:
        """The tensors that one client may train."""
        return self.composition.layout

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token in a training step through every block of this side."""
        full = {p.linear.block for p in self.composition.parts if isinstance(p, FullPart)}
        kept = self.backbone.saved_bytes_per_token() * self._own_depth
        return kept + self.backbone.input_bytes_per_token() * len(full)

    @property
    def read(self) -> Read | int:
        """Which token of each example is read: as `pack` takes it."""
        if self.task.kind == "causal-lm" or self.task.pooling == "mean":
            return None
        if self.task.pooling == "mask":
            return self.task.mask
        if self.task.pooling == "last":
            return "last"
        return "last" if self.backbone.shape.causal else "first"

    def exported(self) -> Exported:
        """How its tensors are written for PEFT."""
        return exported_for(self.adapter, self.catalog, self.task, self.composition.parts)

    def initial(self, seed: int) -> Params:
        """The model before the first round."""
        return self.composition.initial(seed)

    def token_counts(self, examples: Examples) -> NDArray[np.int64]:
        """int64 ``[N]``: tokens that each example takes in the blocks."""
        lengths = examples.lengths()
        return (
            lengths * (1 + self.backbone.shape.patches)
            if self.task.kind == "classify-image"
            else lengths
        )

    def active(self, params: Params, train: Selector) -> tuple[Part, ...]:
        """The parts that matter when `train` trains from `params`."""
        return self.composition.active(params, params.layout.select(train))

    def cut(self, parts: tuple[Part, ...]) -> int:
        """The lowest layer that has a part: below it nothing ever changes."""
        layers = [
            int(spec.block.removeprefix("layer."))
            for part in parts
            for spec in part.specs
            if spec.block.startswith("layer.")
        ]
        return min(layers, default=self.depth)

    def relative(self, sites: Sites) -> Sites:
        """Sites by module names as the backbone has them."""
        return {self.within(name): site for name, site in sites.items()}

    def within(self, module: str) -> str:
        """A module's name as the backbone has it."""
        return module.removeprefix(self.base)

    def session(
        self, params: Params, train: Selector, examples: Examples, cache: Recall | None = None
    ) -> FusedSession:
        """Set the model up to train some tensors on some examples.

        Args:
            params: the global model.
            train: what trains.
            examples: the data.
            cache: activations below the cut, from `prefix_cache` for the same cut and examples.
        """
        return FusedSession(self, params, train, examples, cache)

    def prefix_cache(
        self,
        params: Params,
        train: Selector,
        examples: Examples,
        *,
        order: NDArray[np.int64] | None,
        limits: CacheLimits,
    ) -> PrefixCache | None:
        """A cache of what lies below the lowest part that matters; None where nothing does."""
        session = self.session(params, train, examples)
        cut = self.cut(self.active(params, train))
        if cut == 0:
            return None
        whole = cut == self.depth and self.task.kind != "causal-lm"
        return PrefixCache(
            np.ones(len(examples), dtype=np.int64) if whole else self.token_counts(examples),
            self.backbone.shape.width,
            torch.float32 if whole else self.backbone.dtype,
            session.frozen_activations,
            order=np.arange(len(examples)) if order is None else order,
            limits=limits,
        )
