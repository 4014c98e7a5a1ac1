"""What a safetensors file says of the matrices that it holds in fewer bits.

A matrix ``N`` lies there as ``N.q`` (codes), ``N.s`` (scales) and, in some formats, ``N.m`` (least
values), ``[d_out, ...]`` whatever the layout of the checkpoint it was made from; the header notes
its format and the SHA-256 of each, so that a damaged file names the tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fedloom.backbones.formats import SCHEMES, Scheme
from fedloom.core.errors import ModelError

__all__ = ["METHOD", "Stored", "notes_of", "scheme_in", "stored_in"]

METHOD = "fedloom"
"""The method of quantization, as a ``config.json`` says it: transformers does not know it."""
_NOTE = "fedloom-stored"
_FORMAT = 1


@dataclass(frozen=True)
class Stored:
    """How one matrix is stored.

    Attributes:
        scheme: name of its format.
        codes: SHA-256 of the bytes of its codes, hex.
        scale: of the bytes of its scales.
        least: of those of its least values; empty where the format has none.
    """

    scheme: str
    codes: str
    scale: str
    least: str = ""

    def tensors(self, name: str) -> tuple[str, ...]:
        """What codes, scales and least values of a matrix of that name are called."""
        return tuple(f"{name}.{letter}" for letter in ("qsm" if self.least else "qs"))


def scheme_in(folder: Path) -> Scheme | None:
    """The format of the layers of a model folder; None for a model that is not in fewer bits."""
    try:
        noted = json.loads((folder / "config.json").read_text())["quantization_config"]
        return SCHEMES[noted["format"]] if noted["quant_method"] == METHOD else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def notes_of(stored: Mapping[str, Stored]) -> dict[str, str]:
    """What the header of a file says of matrices in it; nothing where there are none."""
    if not stored:
        return {}
    tensors = {
        name: {key: text for key, text in asdict(how).items() if text}
        for name, how in sorted(stored.items())
    }
    text = json.dumps({"format": _FORMAT, "tensors": tensors}, separators=(",", ":"))
    return {_NOTE: text}


def stored_in(notes: Mapping[str, str], path: Path) -> dict[str, Stored]:
    """What the header of a file says of matrices in it.

    Raises:
        ModelError: it cannot be read, or is of another version.
    """
    if _NOTE not in notes:
        return {}
    try:
        table = json.loads(notes[_NOTE])
        if table["format"] != _FORMAT:
            text = f"stored in format {table['format']}; this fedloom reads {_FORMAT}"
            raise ModelError(f"{path}: {text}")
        found = {name: Stored(**how) for name, how in table["tensors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: the header's note of stored matrices is damaged") from None
    for name, how in found.items():
        if how.scheme not in SCHEMES:
            text = f"tensor {name!r} in format {how.scheme!r}"
            raise ModelError(f"{path}: {text}; expected one of {', '.join(SCHEMES)}")
        if bool(how.least) != SCHEMES[how.scheme].raised:
            raise ModelError(f"{path}: tensor {name!r}: the note of its tensors is damaged")
    return found
