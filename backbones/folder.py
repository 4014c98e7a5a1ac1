"""What lies in the folder of a model: its configuration and its tensor files. No torch."""

import json
from pathlib import Path

from fedloom.core.errors import ModelError

__all__ = ["read_config", "tensor_files"]

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or those that its index names.

    Raises:
        ModelError: the folder has no safetensors file, or an index that cannot be read.
    """
    index = folder / _INDEX
    names = [_WHOLE] if (folder / _WHOLE).is_file() else []
    if not names and index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
    if not names:
        raise ModelError(f"{folder}: neither {_WHOLE} nor {_INDEX}; expected one of them")
    return [folder / name for name in names]


def read_config(folder: Path) -> dict[str, object]:
    """The ``config.json`` of a folder.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no config.json; expected a folder saved by transformers")
    return dict(_json(path))


def _json(path: Path) -> dict[str, dict[str, str]]:
    try:
        parsed = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(parsed).__name__}")
    return parsed
