"""What few bits an element keep of real updates and weights: `nnadq` beside `blockwise`.

Usage: ``few_bits.py [--backbone FOLDER]``, from the repository's root. Updates are those of all
layers after 20 steps on topics of Debian packages, by AdamW and by SGD; the weights are the
model's. For each weight of `nnadq`, `blockwise` has the most levels with which its frame is no
larger. Sizes are of frames; errors are relative to the norm of what was coded.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from math import log2

import numpy as np

from fedloom.api import simulate
from fedloom.codecs.base import Codec
from fedloom.codecs.blockwise import Blockwise
from fedloom.codecs.nnadq import Nnadq
from fedloom.core.types import Delta
from fedloom.progress import Quiet

LOCAL = {
    "AdamW": {"optimizer": "adamw", "lr": 5e-5},
    "SGD": {"optimizer": "sgd", "lr": 0.03},
}
WEIGHTS = (1e-2, 1e-3, 1e-4, 1e-5)


def deltas(backbone: str) -> Iterator[tuple[str, Delta]]:
    """What is coded, by name."""
    for name, local in LOCAL.items():
        with tempfile.TemporaryDirectory() as folder:
            run = simulate(
                {
                    "backbone": {"name": backbone, "max_tokens": 32, "normalize": True},
                    "adapter": "full",
                    "data": {
                        "path": "examples/data/debpkg-topic.jsonl.gz",
                        "label": "topic",
                        "client": "client",
                        "split": "split",
                        "max_clients": 1,
                        "max_test": 10,
                    },
                    "rounds": 1,
                    "clients_per_round": 1,
                    "local": {**local, "steps": 20, "batch_size": 16},
                    "run": {"directory": f"{folder}/run"},
                },
                observer=Quiet(),
            )
            start = run.prepared.model.initial(0)
            layers = start.layout.select(("full",))
            before = start.layout.gather(start.vector, layers)
            after = start.layout.gather(run.params.vector, layers)
        yield f"20 steps of {name}", Delta(layers, after - before)
    yield "weights", Delta(layers, before)


def tried(codec: Codec, delta: Delta) -> tuple[int, float, float, float]:
    """Bytes, relative error, and MB of float32 a second in and out."""
    times = [time.perf_counter()]
    payload = codec.encode(delta)
    times.append(time.perf_counter())
    back = codec.decode(payload, delta.layout)
    times.append(time.perf_counter())
    error = np.linalg.norm(back.vector - delta.vector) / np.linalg.norm(delta.vector)
    into, out = (delta.vector.nbytes / 1e6 / seconds for seconds in np.diff(times))
    return payload.nbytes, float(error), into, out


def fitting(delta: Delta, most: int) -> Blockwise:
    """The finest levels whose frame has at most so many bytes."""
    low, high = 1, 127
    while low < high:
        middle = (low + high + 1) // 2
        fits = Blockwise(_bits(middle)).encode(delta).nbytes <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return Blockwise(_bits(low))


def _bits(levels: int) -> float:
    return log2(2 * levels + 1) + 1e-9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="minilm")
    options = parser.parse_args()
    print("| of | weight | bits | error | blockwise: bits | error | ratio | MB/s, each in, out |")
    print("|---|---|---|---|---|---|---|---|")
    for name, delta in deltas(options.backbone):
        for weight in WEIGHTS:
            size, error, *rates = tried(Nnadq(weight), delta)
            ours, own, *others = tried(fitting(delta, size), delta)
            bits, least = (8 * count / delta.vector.size for count in (size, ours))
            speed = ", ".join(f"{rate:.0f}" for rate in (*rates, *others))
            row = f"{weight:g} | {bits:.2f} | {error:.2e} | {least:.2f} | {own:.2e}"
            print(f"| {name} | {row} | {error / own:.1f} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
