"""PEFT's ``adapter_config.json`` for the adapters with a batched form."""

from fedloom.tuning.base import Adapter, Catalog, Exported, Part, Task

__all__ = ["exported_for"]

AUTO = {
    ("classify", "model"): "AutoModelForSequenceClassification",
    ("classify-image", "model"): "AutoModelForImageClassification",
    ("causal-lm", "model"): "AutoModelForCausalLM",
    ("causal-lm", "mean"): "AutoModelForCausalLM",
}


def exported_for(
    adapter: Adapter, catalog: Catalog, task: Task, parts: tuple[Part, ...]
) -> Exported:
    """How a composition of an adapter and heads is written.

    A head inside the transformers model is among PEFT's ``modules_to_save``; a head of our own is
    left out of PEFT's file.
    """
    config = dict(adapter.peft_config(catalog))
    auto = AUTO.get((task.kind, task.pooling), "AutoModel")
    heads = [part for part in parts if any("head" in spec.tags for spec in part.specs)]
    own_head = auto == "AutoModel"
    left_out = {spec.name for part in heads for spec in part.specs} if own_head else set()
    if not config:
        return Exported({}, auto)
    task_type = {"AutoModel": "FEATURE_EXTRACTION", AUTO[("classify", "model")]: "SEQ_CLS"}
    config |= {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "task_type": "CAUSAL_LM" if task.kind == "causal-lm" else task_type.get(auto),
        "modules_to_save": None if own_head or not heads else [part.module for part in heads],
    }
    arguments = f", num_labels={task.classes}" if task.pooling == "model" and task.classes else ""
    return Exported(config, auto, arguments, frozenset(left_out))
