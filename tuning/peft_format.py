"""PEFT's ``adapter_config.json`` for the adapters with a batched form."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

from fedloom.core.layout import Vector
from fedloom.tuning.base import Adapter, Catalog, Part, Task
from fedloom.tuning.exported import Exported

__all__ = ["arguments_of", "as_peft_has_them", "auto_of", "exported_for", "task_type_of"]

AUTO = {
    ("classify", "model"): "AutoModelForSequenceClassification",
    ("classify-image", "model"): "AutoModelForImageClassification",
    ("causal-lm", "model"): "AutoModelForCausalLM",
    ("causal-lm", "mean"): "AutoModelForCausalLM",
}
TASK_TYPES = {
    ("classify", "model"): "SEQ_CLS",
    ("classify", "mean"): "FEATURE_EXTRACTION",
    ("classify", "last"): "FEATURE_EXTRACTION",
    ("classify", "mask"): "FEATURE_EXTRACTION",
    ("causal-lm", "model"): "CAUSAL_LM",
    ("causal-lm", "mean"): "CAUSAL_LM",
}


def auto_of(task: Task) -> str:
    """The transformers class that the base model of a task is loaded with."""
    return AUTO.get((task.kind, task.pooling), "AutoModel")


def arguments_of(task: Task) -> str:
    """Further arguments of its ``from_pretrained``, as source text."""
    return f", num_labels={task.classes}" if task.pooling == "model" and task.classes else ""


def task_type_of(task: Task) -> str | None:
    """PEFT's task type; None for images, whose inputs PEFT's task classes do not pass on."""
    return TASK_TYPES.get((task.kind, task.pooling))


def exported_for(
    adapter: Adapter, catalog: Catalog, task: Task, parts: tuple[Part, ...]
) -> Exported:
    """How a composition of an adapter and heads is written.

    A head inside the transformers model is among PEFT's ``modules_to_save``; a head of our own is
    left out of PEFT's file.
    """
    config = dict(adapter.peft_config(catalog))
    auto = auto_of(task)
    convert = getattr(adapter, "converted", None)
    if not config or (convert is not None and task.kind != "causal-lm"):
        return Exported({}, auto, arguments_of(task), plain=_is_plain(parts))
    heads = [part for part in parts if any("head" in spec.tags for spec in part.specs)]
    own_head = auto == "AutoModel"
    left_out = {spec.name for part in heads for spec in part.specs} if own_head else set()
    config |= {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "task_type": task_type_of(task),
        "modules_to_save": None if own_head or not heads else [part.module for part in heads],
    }
    if hasattr(adapter, "merged"):
        convert = partial(_contents, adapter, left_out)
    return Exported(config, auto, arguments_of(task), frozenset(left_out), convert)


def as_peft_has_them(adapter: Adapter, tensors: Mapping[str, Vector]) -> Mapping[str, Vector]:
    """An adapter's tensors, those that PEFT does not know made part of those that it does."""
    merge: Callable[[Mapping[str, Vector]], Mapping[str, Vector]] | None
    merge = getattr(adapter, "merged", None)
    return tensors if merge is None else merge(tensors)


def _contents(
    adapter: Adapter, left_out: Collection[str], tensors: Mapping[str, Vector]
) -> dict[str, Vector]:
    plain = Exported({}, left_out=frozenset(left_out))
    return plain.contents(as_peft_has_them(adapter, tensors))


def _is_plain(parts: tuple[Part, ...]) -> bool:
    """Whether every tensor is one of the transformers model's own, trained itself."""
    own = {"full", "bias", "head"}
    return bool(parts) and all(spec.tags & own for part in parts for spec in part.specs)
