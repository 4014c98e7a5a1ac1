"""Write a model folder whose weights are what few bits can say.

Usage: ``quantized_folder.py SOURCE TARGET BITS``. With 8 or 4 bits the matrices of the blocks are
rounded, symmetrically, to a scale for each 64 weights of a row, and written as the numbers that
they stand for: what an engine with quantized weights and exact activations computes with. All else
stays as it is. With 16 bits every tensor is written in half precision, to carry a model about.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["rounded", "write_quantized"]

GROUP = 64


def rounded(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """A matrix ``[out, in]`` rounded to ``2^bits - 1`` levels, float32.

    A group of neighbours in a row has the scale that makes its largest magnitude the largest
    level: 127 for 8 bits, 7 for 4. A row whose length is no multiple of `group` has one scale.
    """
    rows, width = weight.shape
    size = group if width % group == 0 else width
    parts = weight.float().view(rows, -1, size)
    most = 2 ** (bits - 1) - 1
    scale = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / most
    found: Tensor = ((parts / scale).round() * scale).view(rows, width)
    return found


def write_quantized(source: Path, target: Path, bits: int) -> Path:
    """Write the folder; one that is there is left alone.

    Args:
        source: with ``model.safetensors``, in one piece.
        target: the new folder.
        bits: 4, 8, or 16.
    """
    if (target / "config.json").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(str(source / "model.safetensors"))
    for name, tensor in tensors.items():
        if bits == 16 and tensor.is_floating_point():
            tensors[name] = tensor.half()
        elif bits < 16 and tensor.ndim == 2 and ".layer." in name:
            tensors[name] = rounded(tensor, bits)
    save_file(tensors, str(target / "model.safetensors"), metadata={"format": "pt"})
    for path in source.iterdir():
        if path.suffix in (".json", ".txt") and path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return target


if __name__ == "__main__":
    write_quantized(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
