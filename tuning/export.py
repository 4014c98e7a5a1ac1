"""A trained adapter as files, in PEFT's own format where PEFT has the method.

``adapter_config.json`` and ``adapter_model.safetensors`` load with
``PeftModel.from_pretrained(base, folder)``. A head that transformers does not know (mean pooling),
and methods that PEFT lacks, are in ``fedloom.safetensors``, which holds every tensor of the layout.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from fedloom.core.errors import LayoutError, RunError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import CohortModel
from fedloom.tuning.exported import Exported

__all__ = ["export_adapter", "load_adapter", "write_params"]

ALL_TENSORS = "fedloom.safetensors"


def export_adapter(
    model: CohortModel, params: Params, folder: Path, *, classes: Sequence[str] = ()
) -> Path:
    """Write an adapter.

    Args:
        model: what it was trained on.
        params: its values.
        folder: where; made if it is not there.
        classes: names of the classes, in order.

    Returns:
        The folder.

    Raises:
        RunError: the folder cannot be written.
    """
    exported = model.exported()
    tensors = {name: t.copy() for name, t in params.layout.unflatten(params.vector).items()}
    try:
        write_params(params, folder, classes=classes)
        if exported.config:
            kept = exported.contents(tensors)
            save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            text = json.dumps(dict(exported.config), indent=2, sort_keys=True)
            (folder / "adapter_config.json").write_text(text + "\n")
        (folder / "README.md").write_text(_readme(exported, classes))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    return folder


def write_params(params: Params, folder: Path, *, classes: Sequence[str] = ()) -> None:
    """Write tensors as `load_adapter` reads them; the folder is made if it is not there."""
    tensors = {name: t.copy() for name, t in params.layout.unflatten(params.vector).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ALL_TENSORS, metadata=_specs(params.layout, classes))


def load_adapter(folder: Path) -> tuple[Params, tuple[str, ...]]:
    """Read what `export_adapter` wrote: every tensor, and the names of the classes.

    Raises:
        RunError: there is no such file, or it is not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / ALL_TENSORS
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})["fedloom"])
        tensors: dict[str, Any] = dict(load_file(path))
        layout = Layout(
            tuple(
                TensorSpec(name, tuple(tensors[name].shape), block, frozenset(tags))
                for name, block, tags in facts["tensors"]
            )
        )
        return Params(layout, layout.flatten(tensors)), tuple(facts["classes"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, LayoutError):
        raise RunError(f"{path}: not an adapter of fedloom") from None


def _specs(layout: Layout, classes: Sequence[str]) -> dict[str, str]:
    tensors = [[spec.name, spec.block, sorted(spec.tags)] for spec in layout]
    return {"fedloom": json.dumps({"tensors": tensors, "classes": list(classes)})}


def _readme(exported: Exported, classes: Sequence[str]) -> str:
    lines = ["# Adapter trained with fedloom", ""]
    if exported.config:
        lines += [
            "```python",
            f"from transformers import {exported.auto}",
            "from peft import PeftModel",
            f"base = {exported.auto}.from_pretrained(BACKBONE{exported.arguments})",
            "model = PeftModel.from_pretrained(base, THIS_FOLDER)",
            "```",
            "",
        ]
    if exported.plain:
        lines += [
            "```python",
            "from safetensors.torch import load_file",
            f"from transformers import {exported.auto}",
            f"model = {exported.auto}.from_pretrained(BACKBONE{exported.arguments})",
            f'model.load_state_dict(load_file("{ALL_TENSORS}"), strict=False)',
            "```",
            "",
        ]
    lines += [
        f"`{ALL_TENSORS}` holds every tensor that was trained, head included: "
        "`fedloom.tuning.export.load_adapter(folder)` reads it.",
    ]
    if classes:
        lines += ["", "Classes: " + ", ".join(classes)]
    return "\n".join(lines) + "\n"
