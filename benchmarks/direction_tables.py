"""Rows and tables of the benchmark of methods without backpropagation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from running import Program, Result

__all__ = [
    "batched_rows",
    "batched_table",
    "law_rows",
    "law_table",
    "memory_rows",
    "memory_table",
]

Table: TypeAlias = list[list[str]]

HERE = Path(__file__).resolve().parent
SENTIMENT = HERE.parent / "examples" / "data" / "sentiment.jsonl.gz"
WAYS = {
    "inference": "a forward pass",
    "finite-difference": "finite differences, one direction at a time",
    "finite-difference, 8 at once": "finite differences, 8 directions at once",
    "forward-gradient": "forward-mode derivatives (jvp)",
    "backprop": "backpropagation",
}
LAYERS: dict[str, tuple[int, ...]] = {"last": (-1,), "all": ()}
ESTIMATES = ((64, 24), (512, 4), (2048, 2))  # directions, and repeats: one cosine varies by 0.013


def memory_rows(folder: Path, device: str, quick: bool) -> list[Program]:
    """One program for each way of finding a step."""
    script = str(HERE / "step_memory.py")
    return [
        Program(label, (script, str(folder), way, device), facts={"way": way}, rate="step_mib")
        for way, label in WAYS.items()
    ]


def memory_table(results: Sequence[Result]) -> Table:
    """MiB of each way, beside inference and backpropagation."""
    known = {r["way"]: float(r["step_mib"]) for r in results if "failed" not in r}
    out = [["a step by", "MiB beyond the model", "x a forward pass", "x backpropagation"]]
    for result in results:
        mib = known.get(result["way"])
        ratios = [_ratio(mib, known.get(way)) for way in ("inference", "backprop")]
        out.append([str(result["label"]), "failed" if mib is None else f"{mib:.0f}", *ratios])
    return out


def batched_rows(folder: Path, device: str, quick: bool) -> list[Program]:
    """At once and one by one, for clients of two sizes and adapters in the last or all layers."""
    script, rows = str(HERE / "direction_rate.py"), []
    for layers, which in LAYERS.items():
        for batch in (4,) if quick else (4, 8, 16):
            for together in (True, False):
                asked = {"together": together, "layers": which, "batch": batch, "device": device}
                label = f"{layers}, {batch} x 32, " + ("at once" if together else "one by one")
                arguments = (script, str(folder), json.dumps(asked))
                facts = {"case": [layers, batch], "together": together}
                made = Program(label, arguments, facts=facts, rate="directions_per_second")
                rows.append(made)
    return rows


def batched_table(results: Sequence[Result]) -> Table:
    """Directions a second and processor time of both ways, and their ratios."""
    head = ["LoRA in layers", "a client's batch", "one by one, directions/s", "at once", "x"]
    out = [[*head, "CPU ms a direction, one by one", "at once", "x"]]
    cases: dict[tuple[str, int], dict[bool, Result]] = {}
    for result in results:
        layers, batch = result["case"]
        own = cases.setdefault((layers, batch), {})
        if "failed" not in result:
            own[result["together"]] = result
    for (layers, batch), found in cases.items():
        cells = []
        for key, turned in (("directions_per_second", False), ("cpu_ms_per_direction", True)):
            alone, together = (float(found[t][key]) if t in found else None for t in (False, True))
            best = _ratio(alone, together) if turned else _ratio(together, alone)
            cells += [_number(alone), _number(together), best]
        out.append([layers, f"{batch} x 32 tokens", *cells])
    return out


def law_rows(folder: Path, device: str, quick: bool) -> list[Program]:
    """One program for each number of directions."""
    script = str(HERE / "estimates.py")
    rows = []
    for directions, repeats in ESTIMATES[:1] if quick else ESTIMATES:
        numbers = (str(directions), str(4 if quick else repeats))
        arguments = (script, str(folder), str(SENTIMENT), *numbers, device)
        rows.append(Program(f"{directions} directions", arguments, rate="cosine"))
    return rows


def law_table(results: Sequence[Result]) -> Table:
    """Cosines measured, beside the law's."""
    out = [["directions N", "dimensions d", "cosine, mean", "sqrt(N / (N + d + 1))", "apart"]]
    for result in results:
        if "failed" in result:
            out.append([str(result["label"]), "failed", "-", "-", "-"])
            continue
        cosine, law = float(result["cosine"]), float(result["law"])
        apart = f"{100 * (cosine / law - 1):+.1f} %"
        numbers = (f"{result['directions']:,}", f"{result['size']:,}")
        out.append([*numbers, f"{cosine:.4f}", f"{law:.4f}", apart])
    return out


def _ratio(value: float | None, other: float | None) -> str:
    return "-" if value is None or not other else f"{value / other:.2f}"


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:,.3g}"
