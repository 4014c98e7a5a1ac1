"""Every way to multiply with one frozen matrix, in a process of its own.

Usage: ``kernel_times.py D_IN D_OUT TOKENS SECONDS [libraries]``. Prints one JSON line.
"""

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.choose import ENGINES
from fedloom.backbones.product import Quantized, affine
from fedloom.backbones.schemes import pack
from kernel_libraries import libraries
from kernel_timing import Contestant, timed

__all__ = ["main"]

FORMATS = ("int8", "int4-32", "nf4-64")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def plain(weight: Tensor, x: Tensor, dy: Tensor) -> list[Contestant]:
    """As it is: by torch's linear layer, and by the product that fedloom uses instead."""
    found = []
    for name, dtype in DTYPES.items():
        w, a, b = (tensor.to(dtype) for tensor in (weight, x, dy))
        beside = (w.nbytes, x @ weight.t())
        found += [
            Contestant("torch", name, _linear(a, w), _linear(b, w.t()), *beside),
            Contestant("oneDNN", name, _affine(a, w), _affine(b, w.t()), *beside),
        ]
    return found


def _linear(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    return lambda: functional.linear(x, weight)


def _affine(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    return lambda: affine(x, weight)


def _forward(matrix: Quantized, x: Tensor) -> Callable[[], Tensor]:
    return lambda: matrix.forward(x, None)


def _dx(matrix: Quantized, dy: Tensor) -> Callable[[], Tensor]:
    return lambda: matrix.dx(dy)


def stored(weight: Tensor, x: Tensor, dy: Tensor) -> list[Contestant]:
    """fedloom's engines over its formats."""
    found = []
    for scheme in FORMATS:
        packed = pack(weight, SCHEMES[scheme])
        expected = x @ packed.whole().t()
        for engine in ENGINES.values():
            for name, dtype in DTYPES.items():
                if engine.takes(packed.scheme, dtype, x.device):
                    matrix = engine.made(packed, dtype, Buffer())
                    a, b = x.to(dtype), dy.to(dtype)
                    calls = _forward(matrix, a), _dx(matrix, b)
                    label = f"{scheme}, {engine.name}"
                    found.append(Contestant(label, name, *calls, packed.nbytes, expected))
    return found


def main() -> None:
    """Time all of them."""
    d_in, d_out, tokens, seconds = (int(word) for word in sys.argv[1:5])
    torch.set_num_threads(1)
    keep_large_blocks()  # as training does
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(d_out, d_in, generator=made) * 0.02
    x, dy = (torch.randn(tokens, n, generator=made) for n in (d_in, d_out))
    contestants = plain(weight, x, dy) + stored(weight, x, dy)
    if sys.argv[5:]:
        contestants += libraries(weight, x, dy)
    rows = timed(contestants, seconds)
    print(json.dumps({"rows": rows, "amx": torch.cpu._is_amx_tile_supported()}))


if __name__ == "__main__":
    main()
