"""Offsite tuning's end: what was trained around an emulator, put into the whole model.

Xiao et al. (2023): the trained ends replace those of the whole model, which its owner alone has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones import files
from fedloom.backbones.checkpoint import open_checkpoint
from fedloom.backbones.emulator import Note, in_layer, read_note
from fedloom.core.emulation import EmulatorConfig
from fedloom.core.errors import ConfigError, LayoutError, ModelError
from fedloom.core.job import Job
from fedloom.core.layout import ALL, Layout, TensorSpec
from fedloom.core.types import Metrics, Params
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.evaluate import Evaluator
from fedloom.tuning.examples import Examples
from fedloom.tuning.export import export_adapter

__all__ = ["Whole", "check_emulator", "placed", "whole_of"]


def check_emulator(job: Job) -> None:
    """Find what cannot be trained around an emulator.

    Raises:
        ConfigError: the adapter reaches into layers that stand for others, or the model is split.
    """
    how = job.backbone.emulator
    if not how.wanted:
        return
    if job.split.mode != "none":
        text = "an emulator is for devices that hold all of it: expected none"
        raise ConfigError(f"split.mode = {job.split.mode!r}: with backbone.emulator: {text}")
    layers, known = job.adapter.options.get("layers", ()), how.trained()
    if not isinstance(layers, tuple) or not layers or not set(layers) <= set(known):
        shown = list(layers) if isinstance(layers, tuple) else layers
        text = f"with backbone.emulator: expected some or all of {list(known)}"
        raise ConfigError(f"adapter.layers = {shown}: {text}")


@dataclass(frozen=True, eq=False)
class Whole:
    """The model that an emulator stands in for, with the same adapter and head.

    Attributes:
        model: the model.
        note: how the emulator was made.
        task: what it is trained for, as ``backbone.task`` has it.
        classes: names of the classes.
    """

    model: CohortModel
    note: Note
    task: str
    classes: Sequence[str]

    def plugged(self, params: Params) -> Params:
        """What was trained around the emulator, as tensors of the whole model."""
        return placed(params, self.model.layout, self.note)

    def export(self, params: Params, folder: Path) -> None:
        """Save an adapter that fits the whole model."""
        export_adapter(self.model, self.plugged(params), folder, classes=self.classes)

    def judged(self, params: Params, examples: Examples, workers: int) -> dict[str, Metrics]:
        """The whole model's figures with what was trained; a language model's also without it."""
        models = {"plug-in": self.plugged(params)}
        if self.task == "causal-lm":
            models["original"] = self.model.initial(0)
        judge = Evaluator(self.model.session, ALL, examples, workers=workers)
        return {name: judge(model).metrics for name, model in models.items()}


def whole_of(
    job: Job, folder: Path, classes: Sequence[str], *, dtype: torch.dtype, device: torch.device
) -> Whole:
    """Load the model that the emulator in `folder` stands in for.

    Raises:
        ModelError: the emulator is of another model or version.
    """
    note, whole = read_note(folder), files.resolve(job.backbone.name)
    if open_checkpoint(whole, device).digest() != note.of:
        raise ModelError(f"{folder}: an emulator of another model than {whole} is now")
    plain = replace(job, backbone=replace(job.backbone, emulator=EmulatorConfig()))
    model = model_of(plain, whole, classes, dtype=dtype, device=device)
    return Whole(model, note, job.backbone.task, classes)


def placed(params: Params, whole: Layout, note: Note) -> Params:
    """Tensors of an emulator, in the layers of the whole model that they are for.

    Raises:
        ModelError: a tensor has no place there: the models do not go together.
    """
    tensors = params.layout.unflatten(params.vector)
    found: dict[str, NDArray[np.generic]] = {
        _name(spec, note): tensors[spec.name] for spec in params.layout
    }
    try:
        vector = whole.flatten(found)
    except LayoutError as error:
        raise ModelError(f"plug-in: {error}") from None
    if len(found) != len(whole.specs):
        raise ModelError(f"plug-in: the whole model lacks {min(found.keys() - set(whole.names))!r}")
    return Params(whole, vector)


def _name(spec: TensorSpec, note: Note) -> str:
    kind, _, number = spec.block.rpartition(".")
    if kind != "layer":
        return spec.name
    return in_layer(spec.name, int(number), note.layers[int(number)])
