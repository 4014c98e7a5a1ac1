"""Resident memory of clients that train over a stored backbone, and their first seconds.

Usage, from anywhere: ``python benchmarks/client_memory.py [--quick]``. See benchmarks/README.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from results import facts_of, page, publish
from running import ROOT, Program, Result, run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
NAME = "client-memory"
TITLE = "A client that trains LoRA r = 8, float32 activations, one thread"
FORMATS = ("", "int8", "int4-32")
LEARNERS = ("backprop", "finite-difference")
WORKS = {
    "minilm": ("MiniLM-L6, 8 x 64 tokens", "classify", 8, 64),
    "qwen2.5-0.5b": ("0.5B decoder, 1 x 128 tokens", "causal-lm", 1, 128),
}
MAKE = """
import sys, pathlib, torch
from folders import write_folder
from fedloom.backbones.quantize import quantize
from fedloom.backbones.formats import SCHEMES
folder = pathlib.Path(sys.argv[1])
for shape in sys.argv[2:]:
    dtype = torch.float32 if shape == "minilm" else torch.bfloat16
    plain = write_folder(shape, folder / shape, dtype)
    for name in ("int8", "int4-32"):
        quantize(plain, folder / f"{shape}-{name}", SCHEMES[name])
"""
"""Random weights: in this process they would be resident."""


def main() -> int:
    """Measure, print the table, and write it unless the run is a quick one."""
    parser = argparse.ArgumentParser(prog="benchmarks/client_memory.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MiniLM, once; writes nothing")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    options = parser.parse_args()
    shapes = ["minilm"] if options.quick else list(WORKS)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join((str(ROOT), str(HERE)))
        command = [sys.executable, "-c", MAKE, folder, *shapes]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True)
        results = run_all(programs(Path(folder), shapes), repeats=1, limit=300.0)
    facts = facts_of("`python benchmarks/client_memory.py`", load)
    text = page(TITLE, table(results), facts)
    return publish(NAME, results, text, facts, folder=None if options.quick else options.output)


def programs(folder: Path, shapes: Sequence[str]) -> list[Program]:
    """A client for each shape and format."""
    script = str(HERE / "client_memory_side.py")
    found = []
    for shape in shapes:
        label, task, batch, tokens = WORKS[shape]
        for name in FORMATS:
            model = folder / (f"{shape}-{name}" if name else shape)
            facts = {"format": name or "float32"}
            for learner in LEARNERS if task == "causal-lm" else LEARNERS[:1]:
                words = (str(model), task, str(batch), str(tokens), learner)
                said = label if learner == LEARNERS[0] else f"{label}, forwards alone"
                found.append(Program(said, (script, *words), facts=facts, rate="per_second"))
    return found


def table(results: Sequence[Result]) -> list[list[str]]:
    """Resident memory by what it is for."""
    head = ["client", "weights", "imports, MB", "model loaded, MB", "at most, MB"]
    rows = [[*head, "of it files, MB", "first step after, s", "CPU s a step", "loss"]]
    for result in results:
        if "failed" in result:
            continue
        keys = ("base_mib", "loaded_mib", "peak_mib", "file_mib")
        cells = [f"{result[key] * 1.048576:.0f}" for key in keys]
        pace = [f"{result['first_step_s']:.1f}", f"{result['step_cpu_s']:.2f}"]
        row = [str(result["label"]), str(result["format"]), *cells, *pace]
        rows.append([*row, f"{result['loss']:.4f}"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
