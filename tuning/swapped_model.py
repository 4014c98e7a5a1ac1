"""The generic engine: any `transformers` model as a `CohortModel`, by module swap."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom.backbones.four_bit import dense_of, weight_count
from fedloom.backbones.huggingface import is_linear, linears_of, load, norm_kind, norms_of
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Adapter, Catalog, Frozen, Losses, Rows, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples
from fedloom.tuning.exported import Exported
from fedloom.tuning.heads import HEAD, OWN, heads_of, mean_of, owns_head
from fedloom.tuning.losses import filled_slots
from fedloom.tuning.module_words import word_start
from fedloom.tuning.padded import (
    activation_bytes,
    module_memory,
    padded_inputs,
    padded_logits,
    padded_losses,
)
from fedloom.tuning.peft_format import exported_for
from fedloom.tuning.store import Store
from fedloom.tuning.swap import Slot, swap
from fedloom.tuning.word_heads import mask_head_of

__all__ = ["SwappedModel"]


class SwappedModel:
    """A `transformers` model whose modules make room for k clients' adapters.

    Args:
        folder: the model, in transformers' format.
        adapter: what is attached.
        task: what it is trained for.
        dtype: of the frozen weights and activations.
        device: where it runs.
        four_bit: the layers' linear maps are kept in bitsandbytes' NF4.
    """

    batched = True
    note = ""

    def __init__(
        self,
        folder: Path,
        adapter: Adapter,
        task: Task,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        four_bit: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.adapter, self.task, self.dtype = adapter, task, dtype
        self.module, new = load(
            folder,
            task=task.kind,
            pooling=task.pooling,
            classes=task.classes,
            dtype=dtype,
            device=self.device,
            four_bit=four_bit,
        )
        config: Any = self.module.config
        self.pad = int(getattr(config, "pad_token_id", None) or 0)
        self.catalog = _catalog(self.module, task)
        self.mask_head = mask_head_of(folder, task, self.device)
        start = word_start(self.module, folder, task, self.mask_head)
        heads = heads_of(self.module, self.catalog.linears, task, new, start=start)
        self.composition = Composition((*adapter.parts(self.catalog), *heads))
        outside = {OWN} if owns_head(task) else set()
        modules = [part.module for part in self.composition.parts]
        self.slot: Slot = swap(
            self.module,
            [name for name in modules if name not in outside],
            [head.module for head in heads],
        )

    @property
    def layout(self) -> Layout:
        """The tensors that one client may train."""
        return self.composition.layout

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token in a training step through every layer."""
        return activation_bytes(self.module.config, self.dtype)

    def exported(self) -> Exported:
        """How its tensors are written for PEFT."""
        return exported_for(self.adapter, self.catalog, self.task, self.composition.parts)

    def initial(self, seed: int) -> Params:
        """The model before the first round."""
        return self.composition.initial(seed)

    def session(self, params: Params, train: Selector, examples: Examples) -> "SwappedSession":
        """Set the model up to train some tensors on some examples."""
        return SwappedSession(self, params, train, examples)


class SwappedSession:
    """One way of working with a `SwappedModel`."""

    def __init__(
        self, model: SwappedModel, params: Params, train: Selector, examples: Examples
    ) -> None:
        self._model, self._train, self._examples = model, train, examples
        self._parts = model.composition.active(params, params.layout.select(train))
        self._lengths = examples.lengths()
        self._weights = weight_count(model.module)

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients."""
        model = self._model
        store = Store(params, self._train, clients=clients, device=model.device, dtype=model.dtype)
        store.sites = Composition.sites(self._parts, store)
        return store

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._lengths[rows].sum())

    def over(self, rows: NDArray[np.int64]) -> "SwappedSession":
        """Itself: every layer runs each time."""
        return self

    def flops(self, tokens: int) -> float:
        """Forward and input gradient through every weight: 4 operations per weight and token."""
        return 4.0 * self._weights * tokens

    def memory(self, tokens: int, *, backward: bool) -> int:
        """All weights, and activations of every layer; of two at a time without a backward pass."""
        return module_memory(self._model.module, self._model.dtype, tokens, backward=backward)

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients."""
        out, inputs = self._run(store, rows)
        return padded_losses(
            out,
            inputs,
            store=store,
            task=self._model.task,
            examples=self._examples,
            rows=rows,
            mask_head=self._model.mask_head,
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[N]``, the class of each example; -1 where it has no label."""
        if self._examples.labels is None:
            raise TypeError(f"task {self._model.task.kind!r}: the examples have no labels")
        return self._examples.labels

    @property
    def classes(self) -> int:
        """How many classes there are, C."""
        return self._model.task.classes

    def logits(self, store: Store, rows: Rows) -> Tensor:
        """What the active clients' models say of a batch, ``[n, C]``, client by client."""
        out, inputs = self._run(store, rows)
        task, mask_head = self._model.task, self._model.mask_head
        said = padded_logits(out, inputs, store=store, task=task, mask_head=mask_head)
        return filled_slots(said, rows)

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        """Examples as the frozen backbone sees them: ``[n, d]``, float32, means over tokens."""
        model = self._model
        inputs = padded_inputs(self._examples, [rows], pad=model.pad, device=model.device)
        base: Any = model.module.base_model
        with torch.no_grad():
            hidden = base(**inputs).last_hidden_state
        return mean_of(hidden, inputs.get("attention_mask"))

    def _run(self, store: Store, rows: Rows) -> tuple[Any, dict[str, Tensor]]:
        """What the model returns for a batch, and what it was given."""
        model = self._model
        inputs = padded_inputs(self._examples, rows, pad=model.pad, device=model.device)
        model.slot.sites, model.slot.store = store.sites, store
        try:
            with store.trunk_grad() if owns_head(model.task) else nullcontext():
                return model.module(**inputs), inputs
        finally:
            model.slot.sites, model.slot.store = {}, None


def _catalog(module: nn.Module, task: Task) -> Catalog:
    headed = task.kind != "causal-lm" and not owns_head(task)
    base = str(module.base_model_prefix) if headed else ""
    linears = linears_of(module, base)
    names = list(dict.fromkeys(linear.block for linear in linears))
    blocks = tuple(name for name in names if name != HEAD)

    def frozen(name: str) -> Frozen:
        return _frozen(module.get_submodule(name))

    family = str(module.config.model_type)  # type: ignore[union-attr]
    return Catalog(family, linears, norms_of(module, base), (*blocks, HEAD), frozen)


def _frozen(module: Any) -> Frozen:
    bias = getattr(module, "bias", None)
    bias = bias if isinstance(bias, Tensor) else None
    if is_linear(module):
        return Frozen(dense_of(module), bias, transposed=not isinstance(module, nn.Linear))
    eps, centred = norm_kind(module) or (None, False)
    return Frozen(module.weight, bias, eps=eps, centred=centred)
