"""The generic engine: any `transformers` model as a `CohortModel`, by module swap."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedloom.backbones.base import Linear
from fedloom.backbones.huggingface import linears_of, load, norms_of
from fedloom.core.errors import ModelError
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Adapter, Catalog, Exported, Losses, Part, Rows, Task
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.losses import client_losses, owners, valid_slots
from fedloom.tuning.parts import HeadPart
from fedloom.tuning.peft_format import exported_for
from fedloom.tuning.store import Store
from fedloom.tuning.swap import Slot, padded_inputs, swap
from fedloom.tuning.targets import next_tokens, padded_starts

__all__ = ["SwappedModel"]

HEAD = "head"


class SwappedModel:
    """A `transformers` model whose modules make room for k clients' adapters.

    Args:
        folder: the model, in transformers' format.
        adapter: what is attached.
        task: what it is trained for.
        dtype: of the frozen weights and activations.
        device: where it runs.
    """

    batched = True

    def __init__(
        self,
        folder: Path,
        adapter: Adapter,
        task: Task,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.adapter, self.task, self.dtype = adapter, task, dtype
        self.module = load(
            folder,
            task=task.kind,
            pooling=task.pooling,
            classes=task.classes,
            dtype=dtype,
            device=self.device,
        )
        self.catalog = _catalog(self.module, task)
        self.composition = Composition((*adapter.parts(self.catalog), *self._heads()))
        inside = [
            m
            for m in self._modules_of(self.composition.parts)
            if m != "classifier" or not self._own_head
        ]
        self.slot: Slot = swap(self.module, inside)

    @property
    def _own_head(self) -> bool:
        """Whether the head is ours: pooled by mean, outside the `transformers` model."""
        return self.task.pooling == "mean" and self.task.kind != "causal-lm"

    @staticmethod
    def _modules_of(parts: tuple[Part, ...]) -> list[str]:
        return [part.module for part in parts]

    def _heads(self) -> list[HeadPart]:
        if self.task.kind == "causal-lm":
            return []
        if self._own_head:
            width = int(self.module.config.hidden_size)  # type: ignore[union-attr, arg-type]
            linear = Linear("classifier", HEAD, width, self.task.classes)
            return [HeadPart(linear, init=self.task.head_init)]
        heads = [linear for linear in self.catalog.linears if linear.block == HEAD]
        if not heads:
            raise ModelError(f"{type(self.module).__name__}: no head outside its base model")
        return [_head_part(self.module, linear, self.task) for linear in heads]

    @property
    def layout(self) -> Layout:
        """The tensors that one client may train."""
        return self.composition.layout

    @property
    def bytes_per_token(self) -> int:
        """About 34 activations of the model's width per layer (Korthikanti et al., MLSys 2023)."""
        config = self.module.config
        width = int(config.hidden_size)  # type: ignore[union-attr, arg-type]
        layers = sum(block.startswith("layer.") for block in self.catalog.blocks)
        return 34 * width * layers * self.dtype.itemsize // 2

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
        self._weights = sum(p.numel() for p in model.module.parameters())

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients."""
        model = self._model
        store = Store(params, self._train, clients=clients, device=model.device, dtype=model.dtype)
        store.sites = Composition.sites(self._parts, store)
        return store

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._lengths[rows].sum())

    def flops(self, tokens: int) -> float:
        """Forward and input gradient through every weight: 4 operations per weight and token."""
        return 4.0 * self._weights * tokens

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients."""
        model = self._model
        inputs = padded_inputs(self._examples, rows, device=model.device)
        model.slot.sites, model.slot.store = store.sites, store
        try:
            if model.task.kind == "causal-lm":
                return self._language(model.module, inputs, rows)
            return self._classes(model, store, inputs, rows)
        finally:
            model.slot.sites, model.slot.store = {}, None

    def _language(
        self,
        module: Callable[..., nn.Module],
        inputs: dict[str, Tensor],
        rows: Rows,
    ) -> Losses:
        logits: Tensor = module(**inputs).logits  # type: ignore[assignment]
        assert isinstance(self._examples, TextExamples)
        places = next_tokens(self._examples, rows, padded_starts(rows, logits.shape[1]))
        index = torch.from_numpy(places.index).to(logits.device)
        target = torch.from_numpy(places.target).to(logits.device)
        owner = torch.from_numpy(places.owner).to(logits.device)
        return client_losses(logits.flatten(0, 1)[index], target, owner, len(rows))

    def _classes(
        self, model: SwappedModel, store: Store, inputs: dict[str, Tensor], rows: Rows
    ) -> Losses:
        out = model.module(**inputs)
        if model._own_head:
            pooled = mean_pool(out.last_hidden_state, inputs.get("attention_mask"))
            if model.task.normalize:
                pooled = functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
            pooled = pooled.unflatten(0, (len(rows), -1))
            empty = pooled.new_zeros(*pooled.shape[:2], model.task.classes)
            head = store.sites["classifier"].after
            assert head is not None
            logits = attach(pooled, empty, head, store.anchor).flatten(0, 1)
        else:
            logits = out.logits
        labels = self._examples.labels
        assert labels is not None
        target = torch.from_numpy(labels[np.concatenate(rows)])
        owner = torch.from_numpy(owners([len(r) for r in rows]))
        slots = valid_slots(rows)
        if slots is not None:
            logits = logits[torch.from_numpy(slots).to(logits.device)]
        return client_losses(logits, target.to(logits.device), owner.to(logits.device), len(rows))


def mean_pool(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over each row's tokens, float32 ``[n, d]``, of hidden states ``[n, T, d]``."""
    if mask is None:
        return hidden.float().mean(1)
    weight = mask.unsqueeze(-1).float()
    return (hidden.float() * weight).sum(1) / weight.sum(1)


def _catalog(module: nn.Module, task: Task) -> Catalog:
    own = task.pooling == "mean" or task.kind == "causal-lm"
    base = "" if own else str(module.base_model_prefix)
    linears = linears_of(module, base)
    names = list(dict.fromkeys(linear.block for linear in linears))
    blocks = tuple(name for name in names if name != HEAD)

    def bias(name: str) -> Tensor | None:
        found = module.get_submodule(name)
        found = getattr(found, "inner", found)
        value = getattr(found, "bias", None)
        return value if isinstance(value, Tensor) else None

    family = str(module.config.model_type)  # type: ignore[union-attr]
    return Catalog(family, linears, norms_of(module, base), (*blocks, HEAD), bias)


def _head_part(module: nn.Module, linear: Linear, task: Task) -> HeadPart:
    inner = module.get_submodule(linear.name)
    weight, bias = inner.weight, inner.bias
    assert isinstance(weight, Tensor)
    return HeadPart(
        linear,
        weight=weight.detach().float().cpu().numpy(),
        bias=bias.detach().float().cpu().numpy() if isinstance(bias, Tensor) else None,
        has_bias=bias is not None,
        init=task.head_init,
    )
