"""Resident memory of a device that has some blocks of BERT-base, beside one that has them all.

Usage, from anywhere: ``python benchmarks/split_memory.py [--quick]``. See benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from results import facts_of, page, publish
from running import ROOT, Program, Result, run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 900.0
NAME = "split-memory"
TITLE = (
    "A device with 3 of 12 blocks of BERT-base (2 below, 1 above), batch 16 x 128 tokens, LoRA"
    " r = 8, float32"
)


def main() -> int:
    """Measure, print the table, and write it unless the run is a quick one."""
    parser = argparse.ArgumentParser(prog="benchmarks/split_memory.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each; writes nothing")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    options = parser.parse_args()
    load, repeats = os.getloadavg()[0], 1 if options.quick else 2
    with tempfile.TemporaryDirectory() as folder:
        whole, home = _folders(Path(folder))
        with _far(whole) as port:
            script = str(HERE / "split_memory_side.py")
            programs = [
                Program("all of the model", (script, str(whole)), rate="peak_mib"),
                Program("3 of 12 blocks", (script, str(home), str(port)), rate="peak_mib"),
            ]
            results = run_all(programs, repeats=repeats, limit=LIMIT)
    facts = facts_of(f"`python benchmarks/split_memory.py`, the most of {repeats} runs", load)
    text = page(TITLE, table(results), facts)
    return publish(NAME, results, text, facts, folder=None if options.quick else options.output)


def table(results: Sequence[Result]) -> list[list[str]]:
    """MiB of both, and the second as a share of the first."""
    head = ["what is here, MiB", "before the model", "model loaded", "at most"]
    rows = [[*head, "beyond the bare process", "of the files", "s a step", "loss"]]
    good = [result for result in results if "failed" not in result]
    for result in good:
        beyond = result["peak_mib"] - result["base_mib"]
        values = [result["base_mib"], result["loaded_mib"], result["peak_mib"], beyond]
        cells = [*(f"{value:.0f}" for value in values), f"{result['file_mib']:.0f}"]
        pace = [f"{result['seconds_a_step']:.1f}", f"{result['loss']:.6f}"]
        rows.append([str(result["label"]), *cells, *pace])
    if len(good) == 2:
        whole, part = ((r["peak_mib"], r["peak_mib"] - r["base_mib"]) for r in good)
        shares = [f"{100 * b / a:.0f} %" for a, b in zip(whole, part, strict=True)]
        rows.append(["share", "", "", *shares, "", "", ""])
    return rows


def _folders(folder: Path) -> tuple[Path, Path]:
    """The whole model and what is at home of it, made in a process of its own."""
    code = (
        "import sys, pathlib, torch\n"
        "from folders import write_folder\n"
        "from split_memory_side import write_home\n"
        "whole, home = (pathlib.Path(name) for name in sys.argv[1:])\n"
        "write_home(write_folder('bert-base', whole, torch.float32), home)"
    )
    whole, home = folder / "whole", folder / "home"
    command = [sys.executable, "-c", code, str(whole), str(home)]
    subprocess.run(command, cwd=HERE, env=_environment(), check=True)
    return whole, home


@contextmanager
def _far(folder: Path) -> Iterator[int]:
    """The far side in a process of its own; its port."""
    command = [sys.executable, str(HERE / "split_memory_far.py"), str(folder)]
    pipe, environment = subprocess.PIPE, _environment()
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["port"])
        process.stdin.close()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT), str(HERE)))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
