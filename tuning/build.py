"""From a model folder and a choice of adapter to a `CohortModel`, on the best engine there is."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from fedloom.backbones.four_bit import asks_four_bit
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.notes import scheme_in
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.job import Job
from fedloom.core.registry import Component, create
from fedloom.tuning.asking import task_of
from fedloom.tuning.base import Adapter, CohortModel, Task
from fedloom.tuning.kernel import kernel_of

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel
    from fedloom.tuning.word_heads import Start

__all__ = ["build_model", "model_of"]


def model_of(
    job: Job,
    folder: Path,
    classes: Sequence[str],
    *,
    dtype: torch.dtype,
    device: torch.device,
    held: Collection[str] | None = None,
) -> CohortModel:
    """The model that a job asks for, from the folder of its backbone; `held` as in `build_model`.

    Args:
        job: the job.
        folder: of its backbone.
        classes: their names, in order.
        dtype: of the frozen weights and activations.
        device: where it runs.
        held: the blocks whose frozen weights are read; None for all.

    Raises:
        ModelError: the folder holds no model that an engine can read.
        ConfigError: the adapter does not fit the model, or the words do not fit the classes or
            the backbone.
    """
    task = task_of(job.backbone, folder, classes)
    engine = "auto" if held is None else "fused"
    if job.backbone.engine != "auto":
        engine = job.backbone.engine
    return build_model(
        folder,
        job.adapter,
        task,
        dtype=dtype,
        device=device,
        engine=engine,
        held=held,
        kernel=kernel_of(job, folder, dtype=dtype, device=device),
        four_bit=asks_four_bit(job.backbone),
    )


def build_model(
    folder: Path,
    adapter: Component,
    task: Task,
    *,
    dtype: torch.dtype,
    device: torch.device,
    engine: str = "auto",
    held: Collection[str] | None = None,
    kernel: Engine = DEQUANTIZE,
    four_bit: bool = False,
) -> CohortModel:
    """Load a backbone and attach an adapter to it.

    Args:
        folder: the model, in transformers' format.
        adapter: which adapter, with its options.
        task: what the model is trained for.
        dtype: of the frozen weights and activations.
        device: where it runs.
        engine: ``fused`` (own blocks, no transformers), ``transformers`` (any model), or ``auto``:
            fused where the family has it.
        held: the blocks whose frozen weights are read, as `fedloom.backbones.fused.load_fused`
            takes them; None for all. Only the fused engine can do without some.
        kernel: what multiplies with weights that are stored in fewer bits.
        four_bit: engine ``transformers`` keeps the layers' linear maps in bitsandbytes' NF4.

    Raises:
        ModelError: the folder holds no model that an engine can read.
        ConfigError: the adapter does not fit the model.
    """
    chosen = create("adapters", adapter)
    if hasattr(chosen, "build"):  # a method of the peft library: its own modules, one client
        built: CohortModel = chosen.build(
            folder, task, dtype=dtype, device=device, four_bit=four_bit
        )
        return built
    method = cast(Adapter, chosen)
    if engine != "transformers":
        try:
            load = partial(load_fused, dtype=dtype, device=device, held=held, kernel=kernel)
            return _fused(folder, method, task, load)
        except ModelError:
            fused_only = getattr(method, "fused_only", False) or scheme_in(folder) is not None
            if engine == "fused" or fused_only:
                raise
    elif getattr(method, "fused_only", False):
        text = "it has a batched form on the fused engine only; adapter peft has PREFIX_TUNING"
        raise ConfigError(f"adapter {adapter.name}: {text}")
    from fedloom.tuning.swapped_model import SwappedModel

    return SwappedModel(folder, method, task, dtype=dtype, device=device, four_bit=four_bit)


def _fused(
    folder: Path, adapter: Adapter, task: Task, load: Callable[[Path], FusedBackbone]
) -> "FusedModel":
    from fedloom.tuning.fused_model import FusedModel
    from fedloom.tuning.word_heads import fused_words, mask_head_of

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a model in transformers' format")
    backbone = load(folder)
    mask_head = mask_head_of(folder, task, backbone.device)
    head = None
    if task.words:
        head = fused_words(backbone, task, mask_head)
    elif task.kind != "causal-lm" and task.pooling == "model":
        head = _saved_head(folder, backbone.shape.width, task.classes)
    return FusedModel(backbone, adapter, task, head=head, mask_head=mask_head)


def _saved_head(folder: Path, width: int, classes: int) -> "Start | None":
    """The checkpoint's own classifier, where it has one of this shape."""
    from fedloom.backbones.checkpoint import open_checkpoint
    from fedloom.backbones.head import SAVED_HEADS

    saved = open_checkpoint(folder, torch.device("cpu"))
    for name in SAVED_HEADS:
        weight, bias = (saved.find((f"{name}.{part}",)) for part in ("weight", "bias"))
        if weight is None:
            continue
        if weight.shape != (classes, width):
            return None
        return weight.float().numpy(), None if bias is None else bias.float().numpy()
    return None
