"""What a run shows while it runs: a live panel, plain lines where output is kept, JSON, nothing."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fedloom.lines import RESUME, closing, facts, numbers, sparkline
from fedloom.readable import METRICS, headline, value_text
from fedloom.results.history import json_values
from fedloom.results.observe import Observer, RoundLine, RunInfo, Summary

__all__ = ["JsonLines", "LiveProgress", "PlainProgress", "Quiet", "progress"]

_WIDTH = 32
_PLAIN_LINES = 20
_PLAIN_SECONDS = 30.0


@contextmanager
def progress(console: Console | None = None, *, resume: str = RESUME) -> Iterator[Observer]:
    """A live panel on a terminal, plain lines elsewhere (a file, a pipe, a CI log).

    The terminal is as it was afterwards, however the block ends.

    Args:
        console: where; the error output by default.
        resume: how an interrupted run goes on.
    """
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainProgress(console, resume=resume)
        return
    live = LiveProgress(console, resume=resume)
    try:
        yield live
    finally:
        live.stop()


class Quiet:
    """Shows nothing."""

    def started(self, info: RunInfo) -> None:
        """Nothing."""

    def round_done(self, line: RoundLine) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Nothing."""


class JsonLines:
    """One JSON object per event on one line, for scripts.

    ``{"event": "started" | "round" | "note" | "finished", ...}`` with the fields of `RunInfo`,
    `RoundLine`, ``text`` or `Summary`.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout

    def started(self, info: RunInfo) -> None:
        """The facts of the run."""
        self._write("started", info)

    def round_done(self, line: RoundLine) -> None:
        """A round's numbers."""
        self._write("round", line)

    def note(self, text: str) -> None:
        """One remark."""
        self._write("note", {"text": text})

    def finished(self, summary: Summary) -> None:
        """How it ended."""
        self._write("finished", summary)

    def _write(self, event: str, value: object) -> None:
        table = {"event": event, **json_values(value)}
        print(json.dumps(table, allow_nan=False), file=self._file, flush=True)


class PlainProgress:
    """A line every few rounds: at most about twenty, and one after thirty silent seconds."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        resume: str = RESUME,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock, self._resume = clock, resume
        self._info: RunInfo | None = None
        self._said = clock()

    def started(self, info: RunInfo) -> None:
        """What is about to run."""
        self._info = info
        self._say(f"{info.name}: {facts(info)}")

    def round_done(self, line: RoundLine) -> None:
        """The round's numbers, if it is time for a line."""
        rounds = line.rounds or (self._info.rounds if self._info else line.round)
        due = line.round % max(1, rounds // _PLAIN_LINES) == 0 or line.round in (0, 1, rounds)
        if due or self._clock() - self._said >= _PLAIN_SECONDS:
            shown = ", ".join(numbers(line))
            self._say(f"round {line.round}/{rounds} {line.stage}{': ' if shown else ''}{shown}")

    def note(self, text: str) -> None:
        """One remark."""
        self._say(f"note: {text}")

    def finished(self, summary: Summary) -> None:
        """The closing summary."""
        self._say("\n".join(closing(summary, resume=self._resume)))

    def _say(self, text: str) -> None:
        self._said = self._clock()
        self._console.print(text, markup=False, soft_wrap=True)


class LiveProgress:
    """A panel that stays in place: a bar of the rounds, the numbers so far, a curve."""

    def __init__(self, console: Console, *, resume: str = RESUME) -> None:
        self._console, self._resume = console, resume
        self._bar = Progress(
            TextColumn("  [bold]{task.description}"),
            BarColumn(bar_width=_WIDTH),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._live: Live | None = None
        self._curve: list[float] = []
        self._metric = ""
        self._refused = 0

    def started(self, info: RunInfo) -> None:
        """Draw the panel."""
        title = Text.assemble((info.name, "bold cyan"), "  ", (facts(info), "dim"))
        self._console.print(title)
        first = info.stages[0] if info.stages else "train"
        self._bar.add_task(first, total=info.rounds, completed=info.resumed_from)
        self._live = Live(Group(self._bar), console=self._console, transient=True)
        self._live.start()

    def round_done(self, line: RoundLine) -> None:
        """Move the bar and rewrite the numbers."""
        for task in self._bar.task_ids:
            self._bar.update(task, completed=line.round, description=line.stage or "before")
            if line.rounds:
                self._bar.update(task, total=line.rounds)
        self._refused += line.refused
        self._metric = headline(line.evaluation) or self._metric
        self._curve += [line.evaluation[self._metric]] if self._metric in line.evaluation else []
        if self._live:
            self._live.update(Group(self._bar, *self._numbers(line)))

    def _numbers(self, line: RoundLine) -> list[Text]:
        rows = [Text("  " + "   ".join(numbers(_unevaluated(line), refused=self._refused)))]
        if self._curve and self._metric:
            now, best = self._curve[-1], self._best()
            text = f"{METRICS[self._metric].title} {value_text(self._metric, now)}"
            tail = f"best {value_text(self._metric, best)}"
            rows.append(Text.assemble("  ", (text, "bold"), f"  {sparkline(self._curve)}  ", tail))
        return rows

    def _best(self) -> float:
        values = [v for v in self._curve if math.isfinite(v)] or [math.nan]
        return max(values) if METRICS[self._metric].ascending else min(values)

    def note(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(Text.assemble(("  note ", "yellow"), text))

    def finished(self, summary: Summary) -> None:
        """Take the panel away and write the closing summary."""
        self.stop()
        head, *rest = closing(summary, resume=self._resume)
        self._console.print(Text(head, style="bold"))
        for text in rest:
            self._console.print(Text(text))

    def stop(self) -> None:
        """Give the terminal back; twice is as good as once."""
        if self._live:
            self._live.stop()
            self._live = None


def _unevaluated(line: RoundLine) -> RoundLine:
    """The round without its evaluation, which has a row of its own."""
    return replace(line, evaluation={})
