"""A run in lines of text: what runs, how a round went, how it ended."""

import math

from fedloom.core.types import Metrics
from fedloom.readable import METRICS, bytes_text, count, duration, energy, headline, value_text
from fedloom.results.observe import RoundLine, RunInfo, Summary

__all__ = ["RESUME", "closing", "facts", "numbers", "sparkline"]

RESUME = "to go on, give the same command with --resume"

_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 32


def facts(info: RunInfo) -> str:
    """What runs, in one line."""
    parts = [
        info.backbone,
        f"{count(info.clients)} clients" if info.clients else "",
        f"{count(info.examples)} examples" if info.examples else "",
        f"{info.classes} classes" if info.classes else "",
        f"{count(info.trainable)} trainable" if info.trainable else "",
        f"{info.rounds} rounds",
        f"resumed after round {info.resumed_from}" if info.resumed_from else "",
    ]
    return " · ".join(part for part in parts if part)


def numbers(line: RoundLine, *, refused: int | None = None) -> list[str]:
    """A round's numbers, each with its name; those that do not apply are left out."""
    name = headline(line.evaluation)
    out = refused if refused is not None else line.refused
    parts = [
        f"loss {line.loss:.4g}" if math.isfinite(line.loss) else "",
        f"{METRICS[name].title} {value_text(name, line.evaluation[name])}" if name else "",
        f"{line.clients_per_second:.3g} clients/s" if line.clients_per_second else "",
        f"up {bytes_text(line.total_bytes_up)}" if line.total_bytes_up else "",
        f"down {bytes_text(line.total_bytes_down)}" if line.total_bytes_down else "",
        f"devices {duration(line.simulated_seconds)}" if line.simulated_seconds else "",
        energy(line.total_joules) if line.total_joules else "",
        f"{out} refused" if out else "",
    ]
    return [part for part in parts if part]


def sparkline(values: list[float]) -> str:
    """The last values as one row of bars.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    shown = [v for v in values if math.isfinite(v)][-_SPARKS:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / ((high - low) or 1.0)
    return "".join(_BARS[round((v - low) * scale + 1e-9)] for v in shown)


def closing(summary: Summary, *, resume: str = RESUME) -> list[str]:
    """The closing summary, line by line: before, after, references, where to look.

    Args:
        summary: how the run ended.
        resume: how to go on, where rounds are left to do.
    """
    word = "interrupted" if summary.interrupted else "finished"
    rows = [f"{word}: {summary.rounds} rounds in {duration(summary.elapsed)}"]
    models = {"before": summary.before, "federated": summary.after, **summary.references}
    rows += [_model(title, found) for title, found in models.items() if headline(found)]
    rows += _spent(summary.spent)
    rows.append(f"  {'results':<10} {summary.directory}")
    if summary.adapter:
        rows.append(f"  {'adapter':<10} {summary.adapter}")
    if summary.interrupted:
        rows.append(f"  {resume}")
    return rows


def _model(title: str, metrics: Metrics) -> str:
    known = [name for name in METRICS if name in metrics]
    values = (f"{METRICS[name].title} {value_text(name, metrics[name])}" for name in known)
    return f"  {title:<10} {'   '.join(values)}"


def _spent(spent: Metrics) -> list[str]:
    """What the devices took, in a line; none where it was not counted."""
    parts = [
        duration(spent["simulated_seconds"]) if "simulated_seconds" in spent else "",
        energy(spent["joules"]) if "joules" in spent else "",
        f"{spent['eta_e']:.3g} tokens/J" if "eta_e" in spent else "",
        f"T_comp/T_comm {spent['granularity']:.3g}" if "granularity" in spent else "",
        f"{bytes_text(spent['peak_memory'])} of memory" if "peak_memory" in spent else "",
    ]
    return [f"  {'devices':<10} {'   '.join(p for p in parts if p)}"] if parts[0] else []
