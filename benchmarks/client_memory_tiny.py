"""Resident memory of a client without torch: finite differences of MiniLM and of two decoders.

Usage: ``client_memory_tiny.py [FOLDER]`` (where backbones are stored in fewer bits; default: none
that stays); prints a table of three formats of weights. See benchmarks/README.md.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["measured"]

FORMATS = ("int4-32", "int8", "as it is")
LAYERS = {"all": (), "last": (-1,)}
TEXTS, WORDS = (8, 64), (1, 128)
"""Examples of a step, and tokens of each."""
STEPS, DIRECTIONS = 3, 8


def resident(which: str = "VmRSS") -> float:
    """Resident memory of this process in MB, as the kernel counts it; ``VmHWM``: at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(which))
    return int(line.split()[1]) * 1024 / 1e6


def measured(folder: Path, layers: tuple[int, ...], words: bool) -> dict[str, float]:
    """Train in this process, which has what an agent has, and look at its memory."""
    import numpy as np

    import fedloom.client.start  # noqa: F401  # the agent, gRPC and TLS
    from fedloom.core.component import Component
    from fedloom.core.types import LocalWork
    from fedloom.tuning.base import Task
    from fedloom.tuning.examples import TextExamples
    from fedloom.tuning.learners.finite_difference import FiniteDifference
    from fedloom.tuning.learning import NOTHING, Assignment
    from fedloom.tuning.onnx.model import OnnxModel
    from fedloom.tuning.onnx.session import OnnxSession
    from fedloom.tuning.onnx.walk import walk
    from fedloom.tuning.tokens import read_tokenizer

    batch, tokens = WORDS if words else TEXTS
    if (folder / "tokenizer.json").is_file():
        read_tokenizer(folder)  # as a device has read its texts
    draws, count = np.random.default_rng(0), 8 * batch
    ids = draws.integers(1000, 30_000, count * tokens).astype(np.int32)
    labels = None if words else np.arange(count) % 4
    examples = TextExamples(ids, np.arange(0, len(ids) + 1, tokens), labels)
    before = resident()
    adapter = Component("lora", {"rank": 8, "layers": layers})
    task = Task("causal-lm") if words else Task(classes=4, normalize=True)
    model = OnnxModel(folder, adapter, task, threads=1)
    params = model.initial(0)
    session = OnnxSession(model, params, ("B",) if words else ("head", "B"), examples)
    work = LocalWork(steps=STEPS, batch_size=batch, lr=0.1)
    own = Assignment("one", np.arange(len(examples)), round=1, seed=0)
    began = time.thread_time()
    walk(FiniteDifference(directions=DIRECTIONS), session, params, work, own, NOTHING)
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported")
    return {
        "before the model": before,
        "after training": resident(),
        "at most": resident("VmHWM"),
        "of it files": resident("RssFile"),
        "s a step": (time.thread_time() - began) / STEPS,
    }


def cases(name: str, folder: Path, place: Path) -> list[tuple[str, Path, tuple[int, ...]]]:
    """How weights are stored and where LoRA is, in words; their folder, and LoRA's layers."""
    from fedloom.backbones.formats import SCHEMES
    from fedloom.backbones.quantize import quantize

    found: list[tuple[str, Path, tuple[int, ...]]] = []
    for kind in FORMATS:
        own = folder if kind not in SCHEMES else place / f"{name}-{kind}"
        if kind in SCHEMES and not own.is_dir():
            quantize(folder, own, SCHEMES[kind])
        places = LAYERS.items() if name == "minilm" else [("all", ())]
        found += [(f"{kind} | {layers}", own, chosen) for layers, chosen in places]
    return found


def folders(place: Path) -> dict[str, Path]:
    """The backbones: two from the cache or the network, one of random weights."""
    import torch

    from fedloom.backbones.fetch import fetch
    from folders import write_folder

    shape = "qwen2.5-0.5b"
    own = {name: fetch(name) for name in ("minilm", "smollm2")}
    return own | {shape: write_folder(shape, place / shape, torch.bfloat16)}


def main() -> None:
    """Measure each case in a process of its own."""
    if len(sys.argv) == 4:
        folder, layers, words = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
        print(json.dumps(measured(folder, tuple(layers), words)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        shown = False
        for name, folder in folders(place).items():
            for label, own, layers in cases(name, folder, place):
                words = json.dumps(name != "minilm")
                command = [sys.executable, __file__, str(own), json.dumps(layers), words]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                if not shown:
                    print(f"| backbone | weights | LoRA in layers | {' | '.join(found)} |")
                    print("|---|---|---|" + "---:|" * len(found))
                shown = True
                figures = " | ".join(f"{v:.2f}" if v < 10 else f"{v:.0f}" for v in found.values())
                print(f"| {name} | {label} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
