"""From the name of a backbone to the folder with its files."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from fedloom.backbones.fetch import fetch
from fedloom.backbones.sources import MODELS
from fedloom.core.errors import ModelError, nearest

__all__ = ["is_wanted", "resolve"]

# What a model folder holds that anything here reads; no pickles and no other frameworks' weights.
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def is_wanted(name: str) -> bool:
    """Whether a file of a model folder is one that is read here: no pickle, no code.

    >>> is_wanted("model.safetensors"), is_wanted("pytorch_model.bin"), is_wanted("modeling_x.py")
    (True, False, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in WANTED)


def resolve(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a backbone.

    Args:
        name: a registered name (``minilm``, ``smollm2``; fetched where it is not in the cache),
            a folder in transformers' format, or a hub name, ``@revision`` allowed.
        progress: as in `fetch`, for a registered name.

    Raises:
        ModelError: no such model, or it cannot be had here; the message says what to do.
    """
    if name in MODELS:
        return fetch(name, progress)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json: not a model folder")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"{folder}: no such folder")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download  # only where the extra is installed
    except ModuleNotFoundError:
        text = f"backbone {name!r}: not a folder here, and {nearest(name, MODELS)}"
        raise ModelError(f"{text}; a hub name needs: pip install 'fedloom[models]'") from None
    repository, _, revision = name.partition("@")
    try:
        found = snapshot_download(repository, revision=revision or None, allow_patterns=WANTED)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        text = f"backbone {name!r}: not a folder here, and the hub does not give it ({reason})"
        raise ModelError(f"{text}; {nearest(name, MODELS)}, or a folder") from None
    return Path(found)
