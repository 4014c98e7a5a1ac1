"""Kernels as tables: every way beside float32, and what was aimed at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from running import Result
from tables import Table

__all__ = ["table", "targets"]

Row = Mapping[str, Any]
Best = Callable[[str, str, str], float]
OTHERS = ("bitsandbytes NF4", "onnxruntime MatMulNBits")


def table(results: Sequence[Result]) -> Table:
    """A row for each shape and way, forward and gradient for each number of tokens."""
    good = [result for result in results if "failed" not in result]
    counts = sorted({int(r["tokens"]) for r in good})
    heads = [f"{what}, {n} tokens" for n in counts for what in ("forward", "dx")]
    rows = [["d_in x d_out: weights, inputs", "bits a weight", "error", *heads]]
    for shape in dict.fromkeys(r["shape"] for r in good):
        of = {int(r["tokens"]): r["rows"] for r in good if r["shape"] == shape}
        numbers = [int(word) for word in shape.split(" x ")]
        for row in of[counts[0]]:
            cells = [f"{8 * row['bytes'] / (numbers[0] * numbers[1]):.1f}", f"{row['error']:.4f}"]
            for n in counts:
                cells += [_cell(of[n], row, kind) for kind in ("forward", "dx")]
            rows.append([f"{shape}: {row['name']}, {row['inputs']}", *cells])
    return rows


def _cell(rows: Sequence[Row], like: Row, kind: str) -> str:
    own = next(r for r in rows if (r["name"], r["inputs"]) == (like["name"], like["inputs"]))
    if own[kind] is None:
        return "-"
    return f"{own[kind]:.2f} ({_best(rows)('', 'float32', kind) / own[kind]:.2f})"


def _best(rows: Sequence[Row]) -> Best:
    """The least time by the start of a name (empty: plain weights), inputs (or any) and kind."""

    def found(start: str, inputs: str, kind: str) -> float:
        names = (start,) if start else ("torch", "oneDNN")
        times = [
            float(row[kind])
            for row in rows
            if row["name"].startswith(names) and row["inputs"].startswith(inputs) and row[kind]
        ]
        return min(times, default=float("nan"))

    return found


def targets(results: Sequence[Result], *, amx: bool) -> Table:
    """What was aimed at, the range that was reached over all shapes, and whether all reach it."""
    bests = [_best(result["rows"]) for result in results if "failed" not in result]
    plain, most = ("bfloat16", 1.5) if amx else ("float32", 1.2)
    ahead = 1.3 if amx else 1.8
    aims: list[tuple[str, Callable[[Best], float], float, float]] = [
        (
            f"int8 forward at least {ahead} x {plain}'s speed",
            lambda b: b("", plain, "forward") / b("int8,", "", "forward"),
            ahead,
            float("inf"),
        ),
        (
            f"gradient through int8 in at most {most} x {plain}'s time",
            lambda b: b("int8,", plain, "dx") / b("", plain, "dx"),
            0.0,
            most,
        ),
        (
            f"gradient through int4 in at most 1.3 x int8's time, {plain}",
            lambda b: b("int4", plain, "dx") / b("int8,", plain, "dx"),
            0.0,
            1.3,
        ),
        (
            "int4 forward in at most 1.2 x the best library's time",
            lambda b: b("int4", "", "forward") / min(_known(b(o, "", "forward")) for o in OTHERS),
            0.0,
            1.2,
        ),
    ]
    rows = [["aim", "reached", ""]]
    for text, of, low, high in aims:
        found = [of(best) for best in bests]
        if found and all(0 < value < float("inf") for value in found):
            met = sum(low <= round(value, 2) <= high for value in found)
            said = "met" if met == len(found) else f"missed in {len(found) - met} of {len(found)}"
            rows.append([text, f"{min(found):.2f} to {max(found):.2f}", said])
    return rows


def _known(value: float) -> float:
    return value if value == value else float("inf")
