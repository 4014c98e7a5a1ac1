"""A model folder in 8 or 4 bits, made from any of a fused family, a matrix at a time.

What is multiplied with or looked up in becomes codes and scales (`fedloom.backbones.schemes`);
norms, biases and positions stay as they are. Each block is a file of its own, so that a device
fetches what it runs, and a model of which one block is another shares the files of the others.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fedloom.backbones.block_files import write_blocks
from fedloom.backbones.cache import cache_root, install
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.formats import Scheme
from fedloom.backbones.loftq import LoftQ, Pair, alternate, write_starts
from fedloom.backbones.notes import METHOD
from fedloom.backbones.portion import copy_beside
from fedloom.backbones.schemes import Packed, joined, pack, row_chunks
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.errors import ModelError

__all__ = [
    "Matrix",
    "Progress",
    "Rounded",
    "matrices",
    "quantize",
    "quantized_of",
    "rounded_of",
]

_ROWS = 16 << 20
"""Bytes of float32 rows that are packed at a time."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of a checkpoint that can be stored in fewer bits.

    Attributes:
        name: as the checkpoint calls it.
        transposed: it lies there as ``[d_in, d_out]``.
        looked_up: it is an embedding or a language-model head: ``vocab`` rows.
    """

    name: str
    transposed: bool = False
    looked_up: bool = False


@dataclass(frozen=True)
class Rounded:
    """What became of one matrix.

    Attributes:
        name: as the checkpoint calls it.
        block: of the model.
        scheme: its format.
        shape: ``(d_out, d_in)``.
        error: relative, ``|W~ - W| / |W|`` by Frobenius norms; 0 for a matrix of zeros. With a
            start of LoRA it is that of ``W~ + B A``.
        nbytes: of codes and scales.
    """

    name: str
    block: str
    scheme: str
    shape: tuple[int, int]
    error: float
    nbytes: int


Progress = Callable[[Rounded, int, int], None]
"""Told of each matrix, how many are done and how many there are."""


def quantize(
    folder: Path,
    out: Path,
    scheme: Scheme,
    *,
    outer: Scheme | None = None,
    loftq: LoftQ | None = None,
    progress: Progress = lambda rounded, done, total: None,
) -> Path:
    """Write a model in fewer bits. Memory: one block in its new format, and some rows of a matrix.

    Args:
        folder: in transformers' format, of a family that has fused blocks.
        out: the folder to make; left as it is where it is there.
        scheme: the format of the matrices of the layers.
        outer: that of token embeddings, the pooler and a language-model head; None for the same.
        loftq: each matrix of a layer is stored together with a low-rank start of LoRA, which the
            folder then has; None for no such start.
        progress: told of each matrix.

    Returns:
        `out`.

    Raises:
        ConfigError: the format's groups do not divide a matrix; it is named.
        ModelError: the folder holds no model that has fused blocks, or one in fewer bits already;
            a number is not finite; or the disk does not take it.
    """
    config = read_config(folder)
    shape, source = read_shape(config), open_checkpoint(folder, torch.device("cpu"))
    if source.stored:
        raise ModelError(f"{folder}: it is stored in fewer bits already; name the model it is of")
    chosen = {
        matrix: (outer or scheme) if matrix.looked_up else scheme
        for matrix in matrices(source, shape)
    }
    for matrix, own in chosen.items():
        own.check(matrix.name, _size(source, matrix)[1])

    def fill(into: Path) -> None:
        copy_beside(folder, into)
        told = {"quant_method": METHOD, "format": scheme.name, "outer": (outer or scheme).name}
        table = {**config, "quantization_config": told}
        (into / "config.json").write_text(json.dumps(table, indent=2))
        starts = _write(source, chosen, into, loftq, progress)
        if loftq is not None:
            turned = FAMILIES[shape.family].transposed
            write_starts(into, starts, loftq, transposed=turned)

    return install(out, fill)


def quantized_of(folder: Path, scheme: Scheme, begun: Callable[[], None]) -> Path:
    """The folder of a model in fewer bits, in the cache; made where it is not there yet.

    Args:
        folder: the model; taken as it is where it is stored in that format.
        scheme: the format of all that can have it.
        begun: told before work begins that takes time.

    Raises:
        ConfigError, ModelError: as of `quantize`; the folder is stored in another format.
    """
    source = open_checkpoint(folder, torch.device("cpu"))
    formats = {how.scheme for how in source.stored.values()}
    if formats:
        if scheme.name in formats:
            return folder
        text = f"stored as {', '.join(sorted(formats))}; backbone.quantization = {scheme.name!r}"
        raise ModelError(f"{folder}: {text} needs the model that it was made from")
    out = cache_root() / "quantized" / f"{source.digest()[:24]}-{scheme.name}"
    if not out.is_dir():
        begun()
    return quantize(folder, out, scheme)


def matrices(source: Checkpoint, shape: Shape) -> tuple[Matrix, ...]:
    """What of a checkpoint can be stored in fewer bits.

    Raises:
        ModelError: a matrix of a block is missing.
    """
    family = FAMILIES[shape.family]
    parts = [part for part in family.parts if not part.startswith("norm")]
    inner = [
        Matrix(_first(source, family.stored_part(part, layer, "weight")), family.transposed)
        for layer in range(shape.depth)
        for part in parts
    ]
    names = [
        family.stored(family.outer[k], "weight") for k in ("tokens", "pooler") if k in family.outer
    ]
    heads = [] if shape.tied else [("lm_head.weight",)]
    there = [next((n for n in each if n in source.files), None) for each in (*names, *heads)]
    return (*inner, *(Matrix(name, looked_up=True) for name in there if name is not None))


def _first(source: Checkpoint, names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in source.files), None)
    if found is None:
        raise ModelError(f"{source.folder}: no tensor {names[0]!r}")
    return found


def _size(source: Checkpoint, matrix: Matrix) -> tuple[int, int]:
    with safe_open(source.files[matrix.name], "pt") as file:
        rows, columns = file.get_slice(matrix.name).get_shape()
    return (columns, rows) if matrix.transposed else (rows, columns)


def _write(
    source: Checkpoint,
    chosen: Mapping[Matrix, Scheme],
    into: Path,
    loftq: LoftQ | None,
    progress: Progress,
) -> dict[str, Pair]:
    """Write the weights; return what LoRA starts from, by module."""
    starts: dict[str, Pair] = {}
    of = {matrix.name: (matrix, scheme) for matrix, scheme in chosen.items()}
    done = 0

    def read(name: str, block: str) -> Tensor | Packed:
        nonlocal done
        if name not in of:
            return source.get((name,)).contiguous()
        matrix, scheme = of[name]
        if loftq is None or matrix.looked_up:
            packed, error = _packed(source, matrix, scheme)
        else:
            module = name.removesuffix(".weight")
            packed, starts[module], error = _with_start(source, matrix, scheme, loftq)
        done += 1
        progress(rounded_of(name, block, packed, error), done, len(of))
        return packed

    write_blocks(tuple(source.files), read, into)
    return starts


def rounded_of(name: str, block: str, packed: Packed, error: float) -> Rounded:
    """What is told of a matrix."""
    rows, columns = packed.shape
    return Rounded(name, block, packed.scheme.name, (rows, columns), error, packed.nbytes)


def _packed(source: Checkpoint, matrix: Matrix, scheme: Scheme) -> tuple[Packed, float]:
    """A matrix in its format, and its relative error."""
    parts: list[Packed] = []
    moved = size = 0.0
    for rows in _rows(source, matrix):
        try:
            part = pack(rows, scheme)
        except ModelError as error:
            raise ModelError(f"{source.folder}: tensor {matrix.name!r}: {error}") from None
        moved += float((part.whole() - rows).square().sum(dtype=torch.float64))
        size += float(rows.square().sum(dtype=torch.float64))
        parts.append(part)
    return joined(parts), (moved / size) ** 0.5 if size else 0.0


def _with_start(
    source: Checkpoint, matrix: Matrix, scheme: Scheme, loftq: LoftQ
) -> tuple[Packed, Pair, float]:
    """A matrix in its format, the start beside it, and the relative error of both together."""
    whole = torch.cat(list(_rows(source, matrix)))
    try:
        packed, (a, b) = alternate(whole, scheme, loftq)
    except ModelError as error:
        raise ModelError(f"{source.folder}: tensor {matrix.name!r}: {error}") from None
    size = float(whole.norm())
    moved = float((packed.whole() + b @ a - whole).norm())
    return packed, (a, b), moved / size if size else 0.0


def _rows(source: Checkpoint, matrix: Matrix) -> Iterator[Tensor]:
    """Rows ``[some, d_in]`` of a matrix, float32."""
    with safe_open(source.files[matrix.name], "pt") as file:
        stored = file.get_slice(matrix.name)
        for rows in row_chunks(_size(source, matrix), _ROWS // 4):
            part = stored[:, rows].t() if matrix.transposed else stored[rows]
            yield part.float().contiguous()
