"""Time one training step of k clients through the fused frozen blocks.

    python benchmarks/blocks.py --threads 1 --clients 1 4 16

Weights are random, of all-MiniLM-L6's shape: values do not change the speed. Every client trains
LoRA (r = 8) on queries and values with its own batch; times are the best of several steps.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.backbones.base import AddToInput, Packing, Saved, Site
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.packing import pack

RANK = 8


@dataclass
class Lora:
    """``y + B A x`` of every client, its gradients in `da` and `db`."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        low = torch.bmm(x, self.a.mT)
        return y.baddbmm_(low, self.b.mT), (x, low)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        x, low = saved
        d_low = torch.bmm(dy, self.b)
        self.db = torch.bmm(low.mT, dy).mT  # three times as fast as dy.mT first
        self.da = torch.bmm(d_low.mT, x)
        return dy, lambda dx: dx.baddbmm_(d_low, self.a)


def bert_weights(width: int, depth: int, inner: int, vocab: int) -> Iterable[tuple[str, Tensor]]:
    yield "embeddings.word_embeddings.weight", torch.randn(vocab, width)
    yield "embeddings.position_embeddings.weight", torch.randn(512, width)
    yield "embeddings.token_type_embeddings.weight", torch.randn(2, width)
    linears = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(depth):
        for name, size in linears.items():
            yield f"encoder.layer.{i}.{name}.weight", torch.randn(size) * size[1] ** -0.5
            yield f"encoder.layer.{i}.{name}.bias", torch.zeros(size[0])
        norms += [f"encoder.layer.{i}.{half}.LayerNorm" for half in ("attention.output", "output")]
    for name in norms:
        yield f"{name}.weight", torch.ones(width)
        yield f"{name}.bias", torch.zeros(width)


def write_model(folder: Path, *, width: int, depth: int, heads: int, inner: int) -> None:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    config = {"model_type": "bert", "intermediate_size": inner, "vocab_size": 1000, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(bert_weights(width, depth, inner, 1000)), folder / "model.safetensors")


def adapters(backbone: FusedBackbone, clients: int) -> dict[str, Site]:
    sites = {}
    for linear in backbone.linears:
        if linear.name.endswith(("query", "value")):
            a = torch.randn(clients, RANK, linear.d_in, dtype=backbone.dtype)
            b = torch.randn(clients, linear.d_out, RANK, dtype=backbone.dtype) * 0.01
            a, b = a.to(backbone.device), b.to(backbone.device)
            sites[linear.name] = Site(after=Lora(a, b, a, b))
    return sites


def step(backbone: FusedBackbone, packing: Packing, sites: dict[str, Site], trim: bool) -> None:
    hidden = backbone.run(backbone.embed(packing), packing, sites=sites, trim=trim)
    pooled = backbone.finish(hidden, packing, "first", trimmed=trim)
    torch.autograd.backward(pooled.square().sum())


def best_ms(backbone: FusedBackbone, packing: Packing, *, trim: bool, repeats: int) -> float:
    """Milliseconds of the fastest step, per client: process time on CPUs, else wall time."""
    clock = time.process_time if backbone.device.type == "cpu" else time.perf_counter
    sites = adapters(backbone, packing.clients)
    times = []
    for _ in range(repeats + 1):  # the first warms up
        start = clock()
        step(backbone, packing, sites, trim)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        times.append((clock() - start) * 1e3 / packing.clients)
    return min(times[1:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=4, default=[384, 6, 12, 1536])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    keep_large_blocks()
    table = Table("dtype", "trim", "k", "ms per client-step", "GFLOP/s", "x of k=1 float32")
    width, depth, heads, inner = options.shape
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), width=width, depth=depth, heads=heads, inner=inner)
        alone = 0.0
        for dtype in (torch.float32, torch.bfloat16):
            backbone = load_fused(Path(name), dtype=dtype, device=torch.device(options.device))
            work = options.examples * options.tokens * backbone.flops_per_token(0)
            for trim, k in [(trim, k) for trim in (False, True) for k in options.clients]:
                one = [np.arange(options.tokens, dtype=np.int32)] * options.examples
                packing = pack([one] * k, read="first").to(backbone.device)
                ms = best_ms(backbone, packing, trim=trim, repeats=options.repeats)
                alone = alone or ms
                rate = "-" if trim else f"{work / ms / 1e6:.0f}"
                row = (str(dtype)[6:], str(trim), str(k), f"{ms:.2f}", rate, f"{alone / ms:.2f}")
                table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
