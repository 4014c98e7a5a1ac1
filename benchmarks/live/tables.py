"""What the server benchmark measured, as tables of text."""

import statistics
from collections.abc import Sequence

from running import Result
from tables import Table

__all__ = [
    "calls_table",
    "cohorts_table",
    "cuts_table",
    "devices_table",
    "rounds_table",
    "uploads_table",
]


def uploads_table(results: Sequence[Result]) -> Table:
    """Processor time of a MiB that arrives, beside gRPC's own and the same without a disk."""
    head = ["1 MiB arrives by", "CPU ms", "x gRPC alone", "x not durable"]
    out = [[*head, "updates/s", "MiB/s a core", "peak MiB"]]
    for result in results:
        beside = (_named(results, result.get(key)) for key in ("bare", "undurable"))
        ratios = [_over(result, other, "cpu_ms") for other in beside]
        core = "-" if "failed" in result else f"{1000 / float(result['cpu_ms']):,.0f}"
        speed = [_number(result, "updates_per_second", 0), core]
        memory = _number(result, "peak_memory_mib", 0)
        out.append([_label(result), _number(result, "cpu_ms", 2), *ratios, *speed, memory])
    return out


def calls_table(results: Sequence[Result]) -> Table:
    """Processor time of a check-in, beside gRPC's own."""
    out = [["a check-in at", "CPU ms", "a second and core", "x gRPC alone"]]
    for result in results:
        core = "-" if "failed" in result else f"{1000 / float(result['cpu_ms']):,.0f}"
        ratio = _over(result, _named(results, result.get("bare")), "cpu_ms")
        out.append([_label(result), _number(result, "cpu_ms", 3), core, ratio])
    return out


def cohorts_table(results: Sequence[Result]) -> Table:
    """Whether all were taken, and the server's memory."""
    out = [["a round of", "accepted", "seconds", "peak MiB", "x the least"]]
    for result in results:
        least = _named(results, result.get("beside"))
        numbers = [_number(result, key, 0) for key in ("accepted", "round_seconds")]
        memory = _number(result, "peak_memory_mib", 0)
        out.append([_label(result), *numbers, memory, _over(result, least, "peak_memory_mib")])
    return out


def cuts_table(results: Sequence[Result]) -> Table:
    """Bytes on the line over bytes of the content."""
    out = [["64 MiB", "cuts", "tries", "bytes on the line, x the content"]]
    for result in results:
        numbers = [_number(result, key, 0) for key in ("cuts", "tries")]
        out.append([_label(result), *numbers, _number(result, "ratio", 3)])
    return out


def rounds_table(results: Sequence[Result]) -> Table:
    """Seconds of a round, and how many times as long Flower takes."""
    out = [["system", "clients", "seconds a round", "server CPU ms", "x faster than Flower"]]
    for result in results:
        flower = _flower(results, result.get("clients"))
        seconds, cpu = f"{_seconds(result):.4g}", _number(result, "cpu_ms", 1)
        ratio = "-" if not flower else f"{_seconds(flower) / _seconds(result):,.0f}"
        out.append([_label(result), str(result.get("clients", "-")), seconds, cpu, ratio])
    return out


def devices_table(results: Sequence[Result]) -> Table:
    """A device that waits, and rounds with a real model."""
    out = [["two devices", "MiB while waiting", "rounds a minute", "x Flower"]]
    for result in results:
        flower = _flower(results, result.get("clients"))
        seconds = _seconds(result)
        rate = f"{60 / seconds:,.1f}" if seconds < float("inf") else "-"
        timed = (
            flower
            and "failed" not in flower
            and ("round_seconds" in result or "round_seconds" in flower)
        )
        ratio = f"{_seconds(flower) / seconds:,.1f}" if timed and flower else "-"
        if "failed" in result:
            rate = "failed"
        out.append([_label(result), _number(result, "memory_mib", 0), rate, ratio])
    return out


def _seconds(result: Result) -> float:
    """A round's; of those that are listed the median, the first left out."""
    if found := result.get("round_seconds"):
        return float(statistics.median(found[1:])) if isinstance(found, list) else float(found)
    return float(result.get("seconds_per_round", "inf"))


def _flower(results: Sequence[Result], clients: object) -> Result | None:
    found = (r for r in results if r.get("system") == "Flower" and r.get("clients") == clients)
    return next((r for r in found if "failed" not in r), None)


def _label(result: Result) -> str:
    return str(result["label"]) + (" (failed)" if "failed" in result else "")


def _named(results: Sequence[Result], label: object) -> Result | None:
    return next((r for r in results if r["label"] == label), None)


def _number(result: Result, key: str, digits: int) -> str:
    return f"{float(result[key]):,.{digits}f}" if result.get(key) else "-"


def _over(result: Result, other: Result | None, key: str) -> str:
    if other is None or "failed" in result or "failed" in other:
        return "-"
    return f"{float(result[key]) / float(other[key]):.2f}"
