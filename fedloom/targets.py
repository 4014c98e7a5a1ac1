"""What runs took until a metric came to a target: rounds, time, bytes, energy."""

from collections.abc import Sequence

from fedloom.columns import aligned
from fedloom.readable import METRICS, bytes_text, duration, energy, value_text
from fedloom.record import Record

__all__ = ["HEAD", "target_cells", "target_text"]

HEAD = ("run", "metric", "rounds", "devices' time", "wall time", "bytes", "energy")


def target_cells(records: Sequence[Record], target: float) -> list[list[str]]:
    """A row for each run, as in `HEAD`; ``-`` where it did not come there, or was not counted.

    Rounds are evaluated every so often: the first evaluated one at or beyond the target counts.
    """
    return [_cells(record, target) for record in records]


def _cells(record: Record, target: float) -> list[str]:
    title = METRICS[record.metric].title if record.metric else "-"
    line = record.reached(target)
    if line is None:
        return [record.name, title, *["-"] * (len(HEAD) - 2)]
    return [
        record.name,
        f"{title} {value_text(record.metric, line.evaluation[record.metric])}",
        str(line.round),
        duration(line.simulated_seconds) if line.simulated_seconds else "-",
        duration(line.elapsed),
        bytes_text(line.total_bytes_up + line.total_bytes_down),
        energy(line.total_joules) if line.total_joules else "-",
    ]


def target_text(records: Sequence[Record], target: float) -> str:
    """The rows as a table for a terminal."""
    return aligned([HEAD, *target_cells(records, target)])
