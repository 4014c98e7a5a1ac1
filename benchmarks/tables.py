"""Results as tables of text."""

from collections.abc import Sequence
from typing import TypeAlias

from running import Result

__all__ = [
    "gpu_table",
    "lengths_table",
    "markdown",
    "prefix_table",
    "registered_table",
    "systems_table",
]

Table: TypeAlias = list[list[str]]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header, the first column text, the others numbers."""
    header, *rows = table
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def systems_table(results: Sequence[Result]) -> Table:
    """Speed and memory of every system, and ratios to the sequential loops."""
    loops = [r for r in results if r["kind"] == "sequential" and "failed" not in r]
    out = [
        [
            "system",
            "clients/s",
            "CPU ms a client",
            "peak MiB",
            "x best loop, same dtype",
            "x best loop",
        ]
    ]
    for result in results:
        same = [r for r in loops if r["dtype"] == result["dtype"]]
        ratios = [_times(result, _fastest(group)) for group in (same, loops)]
        out.append([*_speed(result), _number(result, "peak_memory_mib", 0), *ratios])
    return out


def lengths_table(results: Sequence[Result]) -> Table:
    """Speed by padding, and the share of useful tokens."""
    out = [["examples are", "clients/s", "CPU ms a client", "useful tokens", "x the first"]]
    for result in results:
        share = "-" if "failed" in result else f"{100 * float(result['useful']):.0f} %"
        out.append([*_speed(result), share, _times(result, results[0])])
    return out


def prefix_table(results: Sequence[Result]) -> Table:
    """Speed by the layers that LoRA is in, with and without a cache of what lies below."""
    out = [["LoRA in layers", "kept", "clients/s", "CPU ms a client", "x all", "x not kept"]]
    plain = {r["label"]: r for r in results if not r["cached"]}
    for result in results:
        label, *speed = _speed(result)
        own = _times(result, plain[label]) if result["cached"] else "-"
        kept = "yes" if result["cached"] else "no"
        out.append([label, kept, *speed, _times(result, results[0]), own])
    return out


def registered_table(results: Sequence[Result]) -> Table:
    """Peak memory by the number of registered clients."""
    out = [["registered clients", "a round's cohort", "peak MiB", "x the first", "clients/s"]]
    first = results[0].get("peak_memory_mib")
    for result in results:
        ratio = "-"
        if first and "failed" not in result:
            ratio = f"{float(result['peak_memory_mib']) / float(first):.2f}"
        memory, rate = (_number(result, k, 0) for k in ("peak_memory_mib", "clients_per_second"))
        out.append([str(result["label"]), str(result["cohort"]), memory, ratio, rate])
    return out


def gpu_table(results: Sequence[Result], peak: float) -> Table:
    """Speed by the number of clients at once, and the share of the product rate `peak` reached.

    The first row of each backbone is its sequential loop.
    """
    head = ["backbone", "clients at once", "training, clients/s", "x loop", "MFU"]
    out = [[*head, "MFU, nothing skipped", "whole round, clients/s", "x loop", "peak GiB"]]
    loops = {r["label"]: r for r in results if not r["together"]}
    for result in results:
        together = str(result["together"] or f"`peft` loop ({result.get('how', 'failed')})")
        memory = "-"
        if "failed" in result:
            together += f": {result['failed']}"
        else:
            memory = f"{float(result['peak_memory_mib']) / 1024:.1f}"
        loop = loops[result["label"]]
        alone = {**result, "clients_per_second": result.get("training", 0.0)}
        shares = [_share(alone, key, peak) for key in ("computed", "whole")]
        speed = [_number(alone, "clients_per_second", 1), _times(alone, loop)]
        rate = [_number(result, "clients_per_second", 1), _times(result, loop)]
        out.append([str(result["label"]), together, *speed, *shares, *rate, memory])
    return out


def _share(result: Result, key: str, peak: float) -> str:
    if "failed" in result or key not in result:
        return "-"
    return f"{100 * float(result[key]) * float(result['clients_per_second']) / peak:.1f} %"


def _speed(result: Result) -> list[str]:
    digits = 0 if float(result.get("clients_per_second", 0.0)) >= 100 else 1
    rate = _number(result, "clients_per_second", digits)
    return [str(result["label"]), rate, _number(result, "cpu_ms_per_client", 2)]


def _number(result: Result, key: str, digits: int) -> str:
    if "failed" in result:
        return "failed"
    return f"{float(result[key]):,.{digits}f}" if result.get(key) else "-"


def _fastest(results: Sequence[Result]) -> Result | None:
    return max(results, key=lambda r: float(r["clients_per_second"]), default=None)


def _times(result: Result, other: Result | None) -> str:
    if other is None or "failed" in result or "failed" in other:
        return "-"
    return f"{float(result['clients_per_second']) / float(other['clients_per_second']):.2f}"
