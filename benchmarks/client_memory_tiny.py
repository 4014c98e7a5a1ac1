"""Resident memory of a client without torch: MiniLM's finite differences, 8 texts of 64 tokens.

Usage: ``client_memory_tiny.py [MODEL_FOLDER]`` (default: MiniLM from the cache or the network);
prints a table of three formats of weights and two places of LoRA. See benchmarks/README.md.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["measured"]

FORMATS = ("int4-32", "int8", "float32")
LAYERS = {"all": (), "last": (-1,)}
BATCH, TOKENS, STEPS, DIRECTIONS = 8, 64, 3, 8


def resident(which: str = "VmRSS") -> float:
    """Resident memory of this process in MB, as the kernel counts it; ``VmHWM``: at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(which))
    return int(line.split()[1]) * 1024 / 1e6


def measured(folder: Path, layers: tuple[int, ...]) -> dict[str, float]:
    """Train in this process, which has what an agent has, and look at its memory."""
    import numpy as np

    import fedloom.client.start  # noqa: F401  # the agent, gRPC and TLS
    from fedloom.core.component import Component
    from fedloom.core.job import BackboneConfig, DataConfig
    from fedloom.core.types import LocalWork
    from fedloom.tuning.base import Task
    from fedloom.tuning.data import TextExamples, own_examples
    from fedloom.tuning.learners.finite_difference import FiniteDifference
    from fedloom.tuning.learning import NOTHING, Assignment
    from fedloom.tuning.onnx.model import OnnxModel
    from fedloom.tuning.onnx.session import OnnxSession
    from fedloom.tuning.onnx.walk import walk
    from fedloom.tuning.reading import reading_of

    words = ("river", "harbour", "economy", "player", "science", "battery", "invoice", "winter")
    draws = np.random.default_rng(0)
    rows = [{"text": " ".join(draws.choice(words, 90)), "label": str(i % 4)} for i in range(64)]
    reading = reading_of(BackboneConfig(max_tokens=TOKENS), folder)
    examples = own_examples(rows, DataConfig(classes=("0", "1", "2", "3")), reading).train
    assert isinstance(examples, TextExamples)
    before = resident()
    adapter = Component("lora", {"rank": 8, "layers": layers})
    model = OnnxModel(folder, adapter, Task(classes=4, normalize=True), threads=1)
    params = model.initial(0)
    session = OnnxSession(model, params, ("head", "B"), examples)
    work = LocalWork(steps=STEPS, batch_size=BATCH, lr=0.1)
    own = Assignment("one", np.arange(len(examples)), round=1, seed=0)
    began = time.thread_time()
    walk(FiniteDifference(directions=DIRECTIONS), session, params, work, own, NOTHING)
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported")
    return {
        "before the model": before,
        "after training": resident(),
        "at most": resident("VmHWM"),
        "s a step": (time.thread_time() - began) / STEPS,
    }


def main() -> None:
    """Measure each case in a process of its own."""
    if len(sys.argv) == 3:
        print(json.dumps(measured(Path(sys.argv[1]), tuple(json.loads(sys.argv[2])))))
        return
    from fedloom.backbones.fetch import fetch
    from fedloom.backbones.formats import SCHEMES
    from fedloom.backbones.quantize import quantize

    source = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch("minilm")
    with tempfile.TemporaryDirectory() as place:
        shown = False
        for name in FORMATS:
            folder = source if name not in SCHEMES else Path(place) / name
            if name in SCHEMES:
                quantize(source, folder, SCHEMES[name])
            for layers, chosen in LAYERS.items():
                command = [sys.executable, __file__, str(folder), json.dumps(chosen)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                if not shown:
                    print(f"| weights, MB | LoRA in layers | {' | '.join(found)} |")
                    print("|---|---|" + "---:|" * len(found))
                shown = True
                figures = " | ".join(f"{v:.2f}" if v < 10 else f"{v:.0f}" for v in found.values())
                print(f"| {name} | {layers} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
