"""What must be the same on every processor, as SHA-256 by name, in one line of JSON.

Run here and in the emulation. It ends with a traceback where the compiled C gives other bits than
torch's operations do.
"""

import hashlib
import json
import platform
from collections.abc import Iterator

import numpy as np
import torch
from ledger_digest import chain_digest
from replay_digest import demo_digest
from torch import Tensor

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.kernels import native
from fedloom.backbones.schemes import Packed, pack
from fedloom.core.fixed_point import fold
from fedloom.core.seeds import stream
from fedloom.strategies.order import Statistic, of_columns

__all__ = ["digests"]

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
ROWS, WIDTH = 7, 512


def sha256(*tensors: Tensor) -> str:
    """Of the bytes of tensors."""
    raw = (tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(b"".join(raw)).hexdigest()


def matrix() -> Tensor:
    """Weights of seven magnitudes, with zeros of both signs."""
    drawn = stream(11, "weights").uniform(ROWS * WIDTH).reshape(ROWS, WIDTH) - 0.5
    sizes = torch.tensor([10.0**power for power in range(-3, 4)])
    weight = torch.from_numpy(drawn).float() * sizes[:, None]
    weight[0, :2] = torch.tensor([0.0, -0.0])
    return weight


def unpacked(packed: Packed) -> Iterator[tuple[str, str]]:
    """The matrix in each type, by the C that was compiled here."""
    for dtype in DTYPES:
        if not native.unpacks(packed.scheme, CPU, dtype):
            continue
        out = torch.empty(packed.shape, dtype=dtype)
        native.unpack(packed, out)
        kind = torch.int32 if dtype == torch.float32 else torch.int16
        if not torch.equal(out.view(kind), packed.whole(dtype).view(kind)):
            raise ArithmeticError(f"{packed.scheme.name} in {dtype}: C and torch differ")
        yield f"{packed.scheme.name} in {dtype}".replace("torch.", ""), sha256(out)


def digests() -> Iterator[tuple[str, str]]:
    """Directions and models of ledgers, stored matrices, and what they unpack to."""
    yield "directions", demo_digest()
    yield "ledger", chain_digest()
    sums = np.zeros(ROWS * WIDTH, dtype=np.int64)
    fold(sums, (matrix() / 1000).view(-1).numpy(), 3)
    yield "sums", sha256(torch.from_numpy(sums))
    rows = matrix().numpy()
    for statistic in Statistic:
        columns = of_columns(statistic, rows, np.arange(ROWS), 2)
        yield f"{statistic.name.lower()} of columns", sha256(torch.from_numpy(columns))
    for name, scheme in SCHEMES.items():
        packed = pack(matrix(), scheme)
        yield f"{name} stored", sha256(*packed.tensors)
        yield from unpacked(packed)
    for name in ("int4-32", "int4-64", "int4-128"):
        if not native.unpacks(SCHEMES[name], CPU, torch.float32):
            continue
        codes, steps = torch.empty(ROWS, WIDTH, dtype=torch.int8), torch.empty(ROWS)
        native.unpack_rows(pack(matrix(), SCHEMES[name]), codes, steps)
        yield f"{name} in rows of int8", sha256(codes, steps)


if __name__ == "__main__":
    print(json.dumps({"machine": platform.machine(), **dict(digests())}))
