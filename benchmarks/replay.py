"""Time the replay of K directions in d dimensions: an update from its seeds and scalars.

    python benchmarks/replay.py
    python benchmarks/replay.py --size 40000 --seeds 4096 --threads 1 2

Beside fedloom's stand the ways of others: a Gaussian vector drawn for every seed, scaled and added
up, as FedKSeed and MeZO do with torch, and the same with numpy's generators. All start from seeds
and end with the sum; times are those of the fastest of several runs. The memory is what is held
beyond the model, the sum with it: it is to stay below 64 MiB. The digest is of the sum: fedloom's
is the same on every machine.
"""

import argparse
import hashlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedloom.core.gaussian import Gaussian, quantiles
from fedloom.core.perturbation_keys import pool_keys, run_id
from fedloom.core.perturbations import Family, Rademacher
from fedloom.core.replay import entries_of, replay

Way = Callable[[NDArray[np.int64], int], NDArray[np.generic]]


@dataclass(frozen=True)
class Timing:
    """What one way took: seconds, MiB with the sum, and the digest of the sum."""

    cpu: float
    wall: float
    memory: float
    digest: str


def fedloom(family: Family, threads: int) -> Way:
    def sum_up(scalars: NDArray[np.int64], size: int) -> NDArray[np.generic]:
        listed = entries_of(pool_keys(run_id(0), len(scalars)), scalars)
        return replay(listed, size, family=family, threads=threads)

    return sum_up


def torch_gaussian(scalars: NDArray[np.int64], size: int) -> NDArray[np.generic]:
    total, direction = torch.zeros(size), torch.empty(size)
    for seed, scalar in enumerate(scalars.tolist()):
        torch.randn(size, generator=torch.Generator().manual_seed(seed), out=direction)
        total.add_(direction, alpha=scalar)
    return total.numpy()


def numpy_gaussian(bits: type[np.random.BitGenerator]) -> Way:
    def sum_up(scalars: NDArray[np.int64], size: int) -> NDArray[np.generic]:
        total, direction = np.zeros(size, np.float32), np.empty(size, np.float32)
        for seed, scalar in enumerate(scalars.tolist()):
            np.random.Generator(bits(seed)).standard_normal(out=direction, dtype=np.float32)
            direction *= scalar
            total += direction
        return total

    return sum_up


def ways(threads: list[int]) -> Iterator[tuple[str, Way]]:
    yield "torch, Gaussian, add_", torch_gaussian
    yield "numpy, Gaussian, PCG64DXSM", numpy_gaussian(np.random.PCG64DXSM)
    yield "numpy, Gaussian, Philox", numpy_gaussian(np.random.Philox)
    for family in (Gaussian(), Rademacher()):
        for n in threads:
            yield f"fedloom, {type(family).__name__}, threads: {n}", fedloom(family, n)


def measure(way: Way, scalars: NDArray[np.int64], size: int, repeats: int) -> Timing:
    """The fastest of `repeats` runs; memory, the sum's own with it, from a run of its own."""
    tracemalloc.start()
    way(scalars, size)
    memory = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        total = way(scalars, size)
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return Timing(min(cpu), min(wall), memory, hashlib.sha256(total.tobytes()).hexdigest()[:8])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000, help="coordinates")
    parser.add_argument("--seeds", type=int, default=1024, help="directions")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    quantiles()  # made once a process
    scalars = np.random.default_rng(0).integers(-127, 128, options.seeds)
    columns = (
        "way",
        "CPU s",
        "wall s",
        "ns/(seed·coord.)",
        "x torch",
        "MiB beyond the model",
        "digest",
    )
    table = Table(*columns, title=f"{options.seeds:,} seeds, {options.size:,} coordinates")
    first = most = 0.0
    for name, way in ways(options.threads):
        took = measure(way, scalars, options.size, options.repeats)
        first = first or took.cpu
        each = took.cpu / options.seeds / options.size * 1e9
        memory = "-" if "torch" in name else f"{took.memory:.1f}"
        times = (f"{took.cpu:.3f}", f"{took.wall:.3f}", f"{each:.3f}", f"{first / took.cpu:.1f}")
        table.add_row(name, *times, memory, took.digest)
        most = max(most, took.memory if name.startswith("fedloom") else 0.0)
    Console(width=110).print(table)
    print(f"fedloom's largest memory: {most:.1f} MiB; below 64: {'yes' if most < 64 else 'no'}")


if __name__ == "__main__":
    main()
