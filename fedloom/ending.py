"""What the command line must know of a run once it is over."""

from pathlib import Path

from fedloom.results.observe import RoundLine, RunInfo, Summary

__all__ = ["Ending"]


class Ending:
    """An observer that keeps where the results are and whether rounds are left to do.

    Attributes:
        directory: where the results are; None until the run has started.
        interrupted: whether rounds are left to do.
    """

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.interrupted = False

    def started(self, info: RunInfo) -> None:
        """Keep where the results go."""
        self.directory = info.directory

    def round_done(self, line: RoundLine) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Keep how it ended."""
        self.directory, self.interrupted = summary.directory, summary.interrupted
