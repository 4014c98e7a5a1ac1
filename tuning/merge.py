"""What was trained of a backbone's linear maps, put into it: a model folder of its own."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.backbones.block_files import write_blocks
from fedloom.backbones.cache import install
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.formats import Scheme
from fedloom.backbones.notes import scheme_in
from fedloom.backbones.portion import copy_beside
from fedloom.backbones.schemes import Packed
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Params
from fedloom.tuning.base import Part
from fedloom.tuning.export import write_params
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.mergers import Merger, merger_of
from fedloom.tuning.peft_format import as_peft_has_them
from fedloom.tuning.side import SidePart

__all__ = ["HEADS", "Merged", "merge"]

HEADS = "head"
"""Where in the folder the trained head is, which is no part of a backbone."""


@dataclass(frozen=True)
class Merged:
    """What became of one matrix.

    Attributes:
        name: as the checkpoint calls it.
        kept: its format, or its type.
        moved: the trained change D beside the matrix, ``|D| / |W|`` by Frobenius norms.
        lost: how far the merged matrix M is from ``W + D``, beside the change:
            ``|M - W - D| / |D|``; 0 where nothing has changed.
    """

    name: str
    kept: str
    moved: float
    lost: float


Progress = Callable[[Merged], None]
"""Told of each matrix that something was trained of."""


def merge(
    model: FusedModel,
    params: Params,
    out: Path,
    *,
    classes: Sequence[str] = (),
    requantize: bool = False,
    progress: Progress = lambda merged: None,
) -> Path:
    """Write a backbone with what was trained in it. Memory: one block, and a matrix as floats.

    PEQA's scales and QA-LoRA's group numbers go into a stored model whose codes stay, without
    rounding; LoRA into floats of the type that the model has, float32 where it is stored. The head
    is beside the model, and in it where it is the model's own (``backbone.pooling = "model"``).

    Args:
        model: what was trained; its backbone's folder is read again.
        params: the values.
        out: the folder to make.
        classes: their names, in order, kept with the head.
        requantize: LoRA over a stored backbone is rounded to the same format once more.
        progress: told of each matrix.

    Returns:
        `out`.

    Raises:
        ConfigError: there is nothing to merge, or it has no form that merges into this format.
        ModelError: the folder is not what it was, or the disk does not take it.
    """
    folder, scheme = model.backbone.checkpoint.folder, scheme_in(model.backbone.checkpoint.folder)
    parts = {
        model.within(part.module): part
        for part in model.composition.parts
        if not isinstance(part, HeadPart | SidePart)  # a side-car is in with its pair
    }
    if not parts:
        raise ConfigError("nothing to merge: only a head was trained, the backbone is as it was")
    mergers = [
        merger_of(part, stored=scheme is not None, requantize=requantize) for part in parts.values()
    ]
    config, source = read_config(folder), open_checkpoint(folder, torch.device("cpu"))
    table, shape = _config(config, mergers[0], scheme), read_shape(config)
    tensors = as_peft_has_them(model.adapter, params.layout.unflatten(params.vector))
    heads = _heads(params, tensors) if model.task.pooling == "model" else {}
    work = _Work(source, mergers[0], _placed(source, shape, parts), tensors, heads, progress)
    turned = FAMILIES[shape.family].transposed

    def fill(into: Path) -> None:
        copy_beside(folder, into)
        (into / "adapter_config.json").unlink(missing_ok=True)  # of LoftQ's start, merged by now
        (into / "config.json").write_text(json.dumps(table, indent=2))
        write_blocks(work.names, lambda name, block: work.read(name, turned=turned), into)
        _write_heads(params, tensors, into, classes)

    return install(out, fill)


def _heads(params: Params, tensors: Mapping[str, Vector]) -> dict[str, Tensor]:
    names = [spec.name for spec in params.layout if "head" in spec.tags]
    return {name: torch.from_numpy(tensors[name].copy()) for name in names}


def _write_heads(
    params: Params, tensors: Mapping[str, Vector], into: Path, classes: Sequence[str]
) -> None:
    layout = Layout(tuple(spec for spec in params.layout if "head" in spec.tags))
    if len(layout.specs):
        head = {name: tensors[name] for name in layout.names}
        write_params(Params(layout, layout.flatten(dict(head))), into / HEADS, classes=classes)


def _placed(source: Checkpoint, shape: Shape, parts: Mapping[str, Part]) -> dict[str, Part | None]:
    """The matrices of layers by their names in the checkpoint, with what belongs to each."""
    family = FAMILIES[shape.family]
    found: dict[str, Part | None] = {}
    for layer in range(shape.depth):
        for kind in (kind for kind in family.parts if not kind.startswith("norm")):
            names = family.stored_part(kind, layer, "weight")
            name = next((n for n in names if n in source.files or n in source.stored), None)
            if name is None:
                raise ModelError(f"{source.folder}: no tensor {names[0]!r}")
            found[name] = parts.get(family.module(kind, layer))
    return found


def _config(config: dict[str, Any], merger: Merger, scheme: Scheme | None) -> dict[str, Any]:
    """The configuration of the merged model."""
    if scheme is None:
        return config
    if merger.floats:
        del config["quantization_config"]
        return {**config, "dtype": "float32"}
    noted = {**config["quantization_config"], "format": merger.scheme(scheme).name}
    return {**config, "quantization_config": noted}


@dataclass(frozen=True)
class _Work:
    """The tensors of the merged model, one at a time.

    Attributes:
        source: the model.
        merger: how parts go into matrices.
        parts: the matrices of layers by name, and what was trained of each.
        tensors: the values.
        heads: tensors of a head that is the model's own, by name.
        progress: told of each matrix.
    """

    source: Checkpoint
    merger: Merger
    parts: Mapping[str, Part | None]
    tensors: Mapping[str, Vector]
    heads: Mapping[str, Tensor]
    progress: Progress

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors; a stored matrix is one."""
        stored = {each for name, how in self.source.stored.items() for each in how.tensors(name)}
        plain = self.source.files.keys() - stored
        return tuple(sorted(plain | self.source.stored.keys() | self.heads.keys()))

    def read(self, name: str, *, turned: bool) -> Tensor | Packed:
        """A tensor of the merged model; matrices of layers are ``[d_in, d_out]`` if `turned`."""
        if name in self.heads:
            return self.heads[name]
        part, packed = self.parts.get(name), self.source.packed((name,))
        if packed is None:
            return self._summed(name, part, turned)
        if name not in self.parts:  # an embedding or a head
            return packed.whole() if self.merger.floats else packed
        numbers = None if part is None else self.merger.numbers(part, self.tensors)
        made = self.merger.put(packed, numbers)
        if numbers is not None:
            self._tell(name, packed.whole(), self.merger.dense(numbers, packed), made)
        return made.t().contiguous() if turned and isinstance(made, Tensor) else made

    def _summed(self, name: str, part: Part | None, turned: bool) -> Tensor:
        """A tensor of floats, with what was trained of it."""
        weight = self.source.get((name,)).contiguous()
        if part is None:
            return weight
        change = self.merger.dense(self.merger.numbers(part, self.tensors), None)
        change = change.t() if turned else change
        made = (weight.float() + change).to(weight.dtype).contiguous()
        self._tell(name, weight.float(), change, made)
        return made

    def _tell(self, name: str, weight: Tensor, change: Tensor, made: Tensor | Packed) -> None:
        if isinstance(made, Tensor):
            kept, whole = str(made.dtype).removeprefix("torch."), made.double()
        else:
            kept, whole = made.scheme.name, made.whole(torch.float64)
        off = float((whole - weight.double() - change.double()).norm())
        size, moved = float(weight.norm()), float(change.norm())
        self.progress(
            Merged(name, kept, moved / size if size else 0.0, off / moved if moved else 0.0)
        )
