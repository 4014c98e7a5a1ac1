"""A smaller model in place of the whole one: its ends as they are, some of the layers between.

Offsite tuning (Xiao et al., 2023): who owns a model gives away its first and last layers, which
train, and an emulator of the rest, lossily compressed, which does not. The folder is a model like
any other, with a note of what it was made from.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedloom.backbones.blocks import block_names
from fedloom.backbones.cache import cache_root, install
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.pieces import Piece, pieces_of, write_pieces
from fedloom.backbones.portion import copy_beside
from fedloom.core.emulation import EmulatorConfig, kept_layers
from fedloom.core.errors import ModelError

__all__ = [
    "Distilling",
    "Note",
    "compressed",
    "emulator_of",
    "in_layer",
    "read_note",
    "rounded",
    "smallest",
]

NOTE = "emulator.json"
FORMAT = 1
_DEPTHS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Note:
    """What an emulator was made from, and how.

    Attributes:
        of: digest of the whole model's files.
        depth: layers of the whole model.
        layers: which of them the emulator consists of, in order.
        left: of these, how many at the bottom are to train.
        right: how many at the top.
        prune: share of each matrix between that was set to zero.
        bits: to what matrices between were rounded; 0 for nothing.
        distilled: how the layers between were trained; empty where they were not.
        format: of the note.
    """

    of: str
    depth: int
    layers: tuple[int, ...]
    left: int
    right: int
    prune: float
    bits: int
    distilled: str = ""
    format: int = FORMAT

    @classmethod
    def made(cls, how: EmulatorConfig, of: str, depth: int, distilled: str = "") -> Self:
        """The note of an emulator that a job asks for, of a model with so many layers."""
        layers = kept_layers(how, depth)
        return cls(of, depth, layers, how.left, how.right, how.prune, how.bits, distilled)

    @property
    def between(self) -> tuple[int, ...]:
        """The layers, as the whole model numbers them, that stand for those that are not there."""
        return self.layers[self.left : len(self.layers) - self.right]

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Distilling:
    """How the layers between are trained when an emulator is made.

    Attributes:
        told: what it does, as the note has it: the same words mean the same bits.
        run: trains the emulator in a folder; gives new values of tensors by their name there.
    """

    told: str
    run: Callable[[Path, Note], Mapping[str, Tensor]]


def emulator_of(folder: Path, how: EmulatorConfig, distilling: Distilling | None = None) -> Path:
    """The emulator of a model, made where it is not there yet.

    Tensors that stay as they are are copied piece by piece: memory does not grow with the model.

    Args:
        folder: the whole model, in transformers' format.
        how: what the emulator is to be.
        distilling: how its layers between are trained; None where they are not.

    Returns:
        Its folder.

    Raises:
        ConfigError: the ends leave nothing between them.
        ModelError: the model cannot be taken apart, the emulator in ``how.folder`` is of another
            model, version or kind, or the disk does not take it.
    """
    if (folder / NOTE).is_file():
        raise ModelError(f"{folder}: it is itself an emulator; name the whole model")
    config, source = read_config(folder), open_checkpoint(folder, torch.device("cpu"))
    blocks = block_names(tuple(source.files))
    key, depth = _depth(folder, config, blocks)
    told = distilling.told if distilling else ""
    note = Note.made(how, source.digest(), depth, told)
    name = hashlib.sha256(note.text().encode()).hexdigest()[:32]
    out = Path(how.folder).expanduser() if how.folder else cache_root() / "emulators" / name

    def fill(into: Path) -> None:
        copy_beside(folder, into)
        (into / "config.json").write_text(json.dumps(_shortened(config, key, note), indent=2))
        (into / NOTE).write_text(note.text())
        write_pieces(_pieces(source, blocks, note, into), into / "model.safetensors")
        for path in into.glob("changed-*"):
            path.unlink()
        if distilling:
            _put(into, distilling.run(into, note))

    _check(install(out, fill), note)
    return out


def read_note(folder: Path) -> Note:
    """The note of an emulator.

    Raises:
        ModelError: there is none, or one of another version.
    """
    path = folder / NOTE
    try:
        table = json.loads(path.read_text())
        if table["format"] != FORMAT:
            text = f"an emulator of version {table['format']}; this fedloom makes version {FORMAT}"
            raise ModelError(f"{folder}: {text}")
        return Note(**{**table, "layers": tuple(table["layers"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{folder}: no emulator: {NOTE} is missing or damaged") from None


def _check(folder: Path, expected: Note) -> None:
    found = read_note(folder)
    if found.of != expected.of:
        text = f"an emulator of another model ({found.of[:12]}, not {expected.of[:12]})"
        raise ModelError(f"{folder}: {text}")
    mine, theirs = asdict(expected), asdict(found)
    for name in mine:
        if mine[name] != theirs[name]:
            text = f"an emulator with {name} = {theirs[name]}, where the job makes {mine[name]}"
            raise ModelError(f"{folder}: {text}; name another backbone.emulator.folder")


def _depth(
    folder: Path, config: Mapping[str, object], blocks: Mapping[str, str]
) -> tuple[str, int]:
    """How many layers a model has, and how its configuration calls that."""
    layers = {block for block in blocks.values() if block.startswith("layer.")}
    key = next((k for k in _DEPTHS if k in config), "")
    if not layers or config.get(key) != len(layers):
        text = "not one stack of layers, as many as its config.json says"
        raise ModelError(f"{folder}: {text}: no emulator can be made of it")
    return key, len(layers)


def _shortened(config: Mapping[str, Any], key: str, note: Note) -> dict[str, Any]:
    """The configuration with fewer layers; what it lists for each layer is picked likewise."""
    out = dict(config)
    for name, value in config.items():
        if isinstance(value, list) and len(value) == note.depth and name.startswith("layer"):
            out[name] = [value[i] for i in note.layers]
    return {**out, key: len(note.layers)}


def in_layer(name: str, old: int, new: int) -> str:
    """The name of a tensor or module of one layer, as another layer has it.

    >>> in_layer("encoder.layer.11.output.dense.weight", 11, 4)
    'encoder.layer.4.output.dense.weight'
    """
    return re.sub(rf"(^|\.){old}(?=\.)", rf"\g<1>{new}", name, count=1)


def _pieces(
    source: Checkpoint, blocks: Mapping[str, str], note: Note, room: Path
) -> dict[str, Piece]:
    """Every tensor of the emulator by its new name, changed ones in files in `room`."""
    names: dict[str, list[str]] = {}
    for name, block in blocks.items():
        names.setdefault(block if block.startswith("layer.") else "", []).append(name)
    out = pieces_of(source, names.get("", []))
    for new, old in enumerate(note.layers):
        own = names[f"layer.{old}"]
        place = source
        if old in note.between and (note.prune or note.bits):
            place = _changed(source, own, note, room / f"changed-{new}.safetensors")
        moved = pieces_of(place, own)
        out |= {in_layer(name, old, new): piece for name, piece in moved.items()}
    return out


def _put(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Give tensors of a model in one file new values, in the types that they have there."""
    source, path = open_checkpoint(folder, torch.device("cpu")), folder / "model.safetensors"
    new = {n: t.to(source.get((n,)).dtype).contiguous() for n, t in tensors.items()}
    save_file(new, folder / "changed.safetensors")
    changed = Checkpoint(folder, dict.fromkeys(new, folder / "changed.safetensors"), source.device)
    rest = [name for name in source.files if name not in new]
    write_pieces(pieces_of(source, rest) | pieces_of(changed, list(new)), folder / "new")
    (folder / "new").replace(path)
    (folder / "changed.safetensors").unlink()


def _changed(source: Checkpoint, names: Sequence[str], note: Note, path: Path) -> Checkpoint:
    """The tensors of one layer, compressed, in a file of their own."""
    tensors = {name: source.get((name,)).contiguous() for name in names}
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    tensors |= {name: compressed(m, note.prune, note.bits) for name, m in matrices.items()}
    save_file(tensors, path)
    return Checkpoint(path.parent, dict.fromkeys(names, path), source.device)


def compressed(matrix: Tensor, prune: float, bits: int) -> Tensor:
    """A matrix rounded, and zero where its smallest numbers were; in its own type."""
    wide = matrix.float()
    out = rounded(wide, bits) if bits else wide.clone()
    out[smallest(wide, prune)] = 0.0
    return out.to(matrix.dtype)


def smallest(weight: Tensor, share: float) -> Tensor:
    """Where the smallest magnitudes of a matrix are: ``floor(share * numel)`` of them, bool."""
    found = torch.zeros(weight.numel(), dtype=torch.bool)
    order = weight.abs().flatten().argsort(stable=True)
    found[order[: int(share * weight.numel())]] = True
    return found.view_as(weight)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A matrix ``[rows, columns]`` in ``2^bits`` levels a row, as far apart as each other.

    The outer levels are the row's least and greatest number, so that none moves by more than
    ``(max - min) / (2 (2^bits - 1))``, and a constant row stays as it is.
    """
    low = weight.amin(1, keepdim=True)
    step = (weight.amax(1, keepdim=True) - low) / (2**bits - 1)
    levels = torch.round((weight - low) / torch.where(step > 0, step, 1.0))
    found: Tensor = low + levels * step
    return found
