"""Programs that measure, each in a process of its own, and the best of several runs of each."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["ROOT", "Program", "Result", "run_all"]

ROOT = Path(__file__).resolve().parent.parent
Result: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """One row of a table.

    Attributes:
        label: what the row is called.
        arguments: of the interpreter; the program prints one JSON line last.
        python: the interpreter.
        facts: what the table's columns need to know of the row besides what it prints.
        repeats: runs of it at most; 0 for as many as the others.
        rate: name of what makes one run better than another.
    """

    label: str
    arguments: tuple[str, ...]
    python: str = sys.executable
    facts: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 0
    rate: str = "clients_per_second"


def run_all(programs: Sequence[Program], *, repeats: int, limit: float) -> list[Result]:
    """Run every program in turn, and all of them again: A B A B.

    Args:
        programs: the rows.
        repeats: how often.
        limit: seconds before one run is stopped.

    Returns:
        For each program, its facts and what its best run printed (the one of the highest rate,
        with the highest memory and the least processor time of all its runs), or ``failed`` with
        the reason.
    """
    found: list[list[Result]] = [[] for _ in programs]
    for turn in range(repeats):
        for program, own in zip(programs, found, strict=True):
            if turn < (program.repeats or repeats):
                own.append(_run(program, limit))
                print(f"  {program.label}: {_brief(program, own[-1])}", file=sys.stderr, flush=True)
    return [_best(p, own) for p, own in zip(programs, found, strict=True)]


def _run(program: Program, limit: float) -> Result:
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
    }
    command = [program.python, *program.arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[-300:]}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failed": done.stderr.strip()[-300:] or f"exit code {done.returncode}"}
    result: Result = json.loads(lines[-1])
    return result


def _best(program: Program, runs: Sequence[Result]) -> Result:
    good = [run for run in runs if "failed" not in run]
    if not good:
        return {"label": program.label, **program.facts, **runs[-1]}
    best = max(good, key=lambda run: float(run.get(program.rate, 0.0)))
    memory = max(float(run.get("peak_memory_mib", 0.0)) for run in good)
    least = {
        key: min(float(run[key]) for run in good if run.get(key))
        for key in best
        if key.startswith("cpu_ms") and best[key]
    }
    return {"label": program.label, **program.facts, **best, "peak_memory_mib": memory, **least}


def _brief(program: Program, result: Result) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    found = {k: v for k, v in result.items() if isinstance(v, int | float)}
    if program.rate in found:
        return f"{float(found[program.rate]):.2f} {program.rate.replace('_per_', '/')}"
    return ", ".join(f"{key} {value:.3g}" for key, value in found.items())
