"""TensorBoard event files of a run, where the extra ``fedloom[tensorboard]`` is installed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fedloom.core.errors import RunError
from fedloom.core.types import Metrics
from fedloom.results.observe import RoundLine, RunInfo, Summary

__all__ = ["TensorBoard"]


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """An observer that writes every number of a round to ``events/`` in the run's folder.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            import tensorboard  # noqa: F401 (torch's writer needs it, and says so less clearly)
        except ImportError:
            text = "TensorBoard is not installed: pip install 'fedloom[tensorboard]'"
            raise RunError(text) from None
        self._writer: _Writer | None = None

    def started(self, info: RunInfo) -> None:
        """Open the event file."""
        self._writer = _writer(info.directory / "events", purge=info.resumed_from + 1)

    def round_done(self, line: RoundLine) -> None:
        """Write the round's numbers at its step."""
        numbers = {
            "training/loss": line.loss,
            "round/accepted": line.accepted,
            "round/refused": line.refused,
            "round/seconds": line.seconds,
            "round/clients per second": line.clients_per_second,
            "bytes/up": line.total_bytes_up,
            "bytes/down": line.total_bytes_down,
        }
        self._add({"training": line.metrics, "evaluation": line.evaluation}, numbers, line.round)

    def note(self, text: str) -> None:
        """Nothing: an event file holds numbers."""

    def finished(self, summary: Summary) -> None:
        """Write the references beside the last model and close the file."""
        models = {"before": summary.before, "after": summary.after, **summary.references}
        self._add(models, {}, summary.rounds)
        if self._writer:
            self._writer.close()

    def _add(self, groups: Mapping[str, Metrics], numbers: Metrics, step: int) -> None:
        named = {
            f"{group}/{key}": value for group in groups for key, value in groups[group].items()
        }
        for tag, value in {**numbers, **named}.items():
            if self._writer and math.isfinite(value):
                self._writer.add_scalar(tag, value, step)


def _writer(folder: Path, *, purge: int) -> _Writer:
    from torch.utils.tensorboard import SummaryWriter

    writer: _Writer = SummaryWriter(str(folder), purge_step=purge)
    return writer
