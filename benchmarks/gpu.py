"""The section on one GPU: fedloom by the number of clients trained at once, and a `peft` loop.

Usage: ``gpu.py [--quick] [--output FOLDER]``. Everything is measured in this one process; rows
are skipped once `BUDGET` seconds have passed.
"""

import argparse
import gc
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from federated import load, measure, training_rate
from fedloom.backbones.fused import FusedBackbone
from fedloom.tuning.base import CohortModel
from fedloom.tuning.fused_model import FusedModel
from folders import CONFIGS, write_folder
from gpu_loop import loop_rate
from measurement import Measurement
from results import commit, machine, page, write_section
from running import Result
from tables import gpu_table

__all__ = ["product_flops", "product_rate"]

BUDGET = 420.0
SIDE = 8192


@dataclass(frozen=True)
class Case:
    """One backbone, the work of its clients, and how many are trained at once."""

    shape: str
    together: tuple[int, ...]
    samples: int = 16
    tokens: int = 32
    batch: int = 8


CASES = (
    Case("minilm", (1, 16, 128, 1024, 4096)),
    Case("bert-base", (16, 128, 1024)),
    Case("qwen2.5-0.5b", (1, 4, 8, 32), samples=8, tokens=128, batch=4),
)


def product_rate() -> float:
    """FLOP/s of a bfloat16 product of two random 8192 x 8192 matrices: the median of 20."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(2 * SIDE**3 / sorted(times)[len(times) // 2])


def product_flops(backbone: FusedBackbone, case: Case) -> tuple[float, float]:
    """Operations of the frozen products that one client needs: computed, and in a plain loop.

    Both count the forward pass and the gradient to the input, without attention itself. Computed
    leaves out what nothing reads in a classifier's last block; a language model's head is counted.
    """
    count = case.samples * case.tokens
    whole = backbone.flops_per_token(0) * count
    if backbone.shape.causal:
        d, vocab = backbone.shape.width, backbone.shape.vocab
        head = 4.0 * d * vocab * case.samples * (case.tokens - 1)
        return whole + head, whole + head
    last = backbone.layers[-1]
    sizes = [product.weight.shape.numel() for product in last.products]
    queries = sizes[0] // 3
    unread = queries + sum(sizes[1:])
    return whole - 4.0 * unread * case.samples * (case.tokens - 1), whole


def main() -> int:
    """Measure all cases, print the table and write it."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few clients; nothing is written")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of results")
    options = parser.parse_args()
    began = time.monotonic()
    peak = product_rate()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = write_folder(case.shape, Path(folder) / case.shape)
            results += _case(case, path, quick=options.quick, stop=began + BUDGET)
    facts = {
        "machine": f"{torch.cuda.get_device_name()}; {machine()}",
        "peak": f"{peak / 1e12:.0f} TFLOP/s (bf16 product, {SIDE}^3)",
        "command": "`python benchmarks/simulator.py --device cuda`, best of 3 rounds",
        "commit": commit(),
        "took": f"{time.monotonic() - began:.0f} s",
    }
    text = page("One GPU, bf16", gpu_table(results, peak), facts)
    if not options.quick:
        write_section(options.output, "gpu", results, text, facts)
    print(text)
    return 0


def _case(case: Case, folder: Path, *, quick: bool, stop: float) -> list[Result]:
    asked = Measurement(
        str(folder),
        rounds=3,
        samples=case.samples,
        tokens=case.tokens,
        batch=case.batch,
        workers=1,
        device="cuda",
    )
    words = f"vocabulary {CONFIGS[case.shape]['vocab_size']:,}"
    name = f"{case.shape} ({case.samples} x {case.tokens}, batch {case.batch}, {words})"
    out: list[Result] = [{"label": name, "together": 0, **_loop(asked)}]
    print(f"{name}: {out[0]}", file=sys.stderr, flush=True)
    model = load(asked)
    assert isinstance(model, FusedModel)
    computed, whole = product_flops(model.backbone, case)
    for together in case.together[:2] if quick else case.together:
        clients = max(2 * together, 8 if case.samples == 8 else 32)
        one = replace(asked, together=together, clients=clients)
        found = _measured(one, model) if time.monotonic() < stop else {"failed": "out of time"}
        row = {"label": name, "together": together, "computed": computed, "whole": whole, **found}
        print(f"  k={together}: {found}", file=sys.stderr, flush=True)
        out.append(row)
    return out


def _measured(asked: Measurement, model: CohortModel) -> Result:
    _forget()
    try:
        alone = training_rate(asked, model)
        return asdict(measure(asked, model)) | {"training": alone}
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    finally:
        _forget()


def _loop(asked: Measurement) -> Result:
    _forget()
    try:
        rates = {how: loop_rate(asked, autocast=how == "autocast") for how in ("bf16", "autocast")}
        memory = torch.cuda.max_memory_allocated() / 2**20
    except ImportError as error:
        return {"failed": str(error)}
    finally:
        _forget()
    best = max(rates, key=lambda how: rates[how])
    return {"clients_per_second": rates[best], "how": best, "peak_memory_mib": memory, **rates}


def _forget() -> None:
    """Give freed memory back, and count the peak from here."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    sys.exit(main())
