"""Numbers as people read them: bytes, times, shares, and what each metric is called."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = [
    "METRICS",
    "Metric",
    "bytes_text",
    "count",
    "duration",
    "energy",
    "headline",
    "value_text",
]


@dataclass(frozen=True)
class Metric:
    """How a metric of an evaluation is shown.

    Attributes:
        title: what people call it.
        share: whether it is a share of one, shown in percent.
        ascending: whether more of it is better.
    """

    title: str
    share: bool
    ascending: bool


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", share=True, ascending=True),
    "macro_f1": Metric("macro F1", share=True, ascending=True),
    "perplexity": Metric("perplexity", share=False, ascending=False),
    "loss": Metric("loss", share=False, ascending=False),
    # what clients measure on data that stay with them
    "clients_accuracy": Metric("clients' accuracy", share=True, ascending=True),
    "clients_macro_f1": Metric("clients' macro F1", share=True, ascending=True),
    "clients_perplexity": Metric("clients' perplexity", share=False, ascending=False),
    "clients_loss": Metric("clients' loss", share=False, ascending=False),
}


def headline(names: Iterable[str]) -> str:
    """The metric that says most, of those there are; empty where there is none known.

    >>> headline(["loss", "accuracy"]), headline(["loss", "perplexity"]), headline([])
    ('accuracy', 'perplexity', '')
    """
    there = set(names)
    return next((name for name in METRICS if name in there), "")


def value_text(name: str, value: float) -> str:
    """A metric's value with its unit.

    >>> value_text("accuracy", 0.7234), value_text("loss", 1.23456), value_text("loss", math.nan)
    ('72.3 %', '1.235', '-')
    """
    if not math.isfinite(value):
        return "-"
    if name in METRICS and METRICS[name].share:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"


def bytes_text(nbytes: float) -> str:
    """Bytes in powers of 1000.

    >>> bytes_text(999), bytes_text(1500), bytes_text(2_340_000_000)
    ('999 B', '1.50 kB', '2.34 GB')
    """
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    power = min(int(math.log10(nbytes) / 3), 5)
    scaled = nbytes / 1000**power
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {('', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.25), duration(75), duration(3 * 3600 + 120)
    ('0.25 s', '1 min 15 s', '3 h 02 min')
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def energy(joules: float) -> str:
    """Joules in powers of 1000.

    >>> energy(12.34), energy(45_600), energy(3.6e6)
    ('12.3 J', '45.6 kJ', '3.60 MJ')
    """
    power = min(int(math.log10(joules) / 3), 3) if joules >= 1 else 0
    scaled = joules / 1000**power
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {('', 'k', 'M', 'G')[power]}J"


def count(number: float) -> str:
    """A whole number with thin groups of three.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,.0f}"
