import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from fedloom.progress import JsonLines, PlainProgress, Quiet, progress
from fedloom.results.observe import Observer, RoundLine, RunInfo, Summary


def watch(observer: Observer, rounds: int) -> None:
    """A whole run, as an observer sees it."""
    observer.started(RunInfo("demo", Path("runs/demo"), rounds, ("train",), backbone="minilm"))
    observer.note("bfloat16 is slower here")
    observer.round_done(RoundLine(0, "train", evaluation={"accuracy": 0.1}))
    for number in range(1, rounds + 1):
        evaluation = {"accuracy": number / rounds}
        observer.round_done(RoundLine(number, "train", 9, 1, 1.0, evaluation=evaluation))
    observer.finished(Summary({}, {"accuracy": 1.0}, rounds, 2.0, Path("runs/demo")))


def test_json_lines_are_one_object_per_event() -> None:
    file = io.StringIO()
    watch(JsonLines(file), 2)
    events = [json.loads(text) for text in file.getvalue().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["started", "note", "round", "round", "round", "finished"]
    assert events[0]["directory"] == "runs/demo"
    assert events[2]["loss"] is None  # NaN: no training in round 0
    assert events[4]["evaluation"] == {"accuracy": 1.0}
    assert events[5]["interrupted"] is False


def test_where_output_is_kept_there_are_about_twenty_plain_lines() -> None:
    file = io.StringIO()
    with progress(Console(file=file)) as observer:
        watch(observer, 200)
    rows = file.getvalue().splitlines()
    rounds = [row for row in rows if row.startswith("round ")]
    assert 20 <= len(rounds) <= 24
    assert rounds[-1].startswith("round 200/200 train: loss 1, accuracy 100.0 %")
    assert rows[0] == "demo: minilm · 200 rounds"
    assert "note: bfloat16 is slower here" in rows
    assert "\x1b" not in file.getvalue()


def test_silence_is_broken_after_thirty_seconds() -> None:
    file, now = io.StringIO(), [0.0]
    observer = PlainProgress(Console(file=file), clock=lambda: now[0])
    observer.started(RunInfo("demo", Path(), 1000))
    observer.round_done(RoundLine(3))
    now[0] = 31.0
    observer.round_done(RoundLine(4))
    rows = file.getvalue().splitlines()
    assert [row.split()[1] for row in rows if row.startswith("round")] == ["4/1000"]


def test_rounds_that_a_stage_gave_up_are_no_longer_counted() -> None:
    file = io.StringIO()
    observer = PlainProgress(Console(file=file))
    observer.started(RunInfo("demo", Path(), 100))
    observer.round_done(RoundLine(1, stage="a", rounds=100))
    observer.round_done(RoundLine(7, stage="b", rounds=7))
    rows = file.getvalue().splitlines()
    assert [row.split()[1] for row in rows if row.startswith("round")] == ["1/100", "7/7"]


def test_a_terminal_gets_a_panel_and_is_left_as_it_was() -> None:
    file = io.StringIO()
    with progress(Console(file=file, force_terminal=True, width=100)) as observer:
        watch(observer, 5)
    text = file.getvalue()
    assert "best 100.0 %" in text
    assert "5 refused" in text
    assert "finished: 5 rounds" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again


def fail(observer: Observer) -> None:
    observer.started(RunInfo("demo", Path(), 5))
    observer.round_done(RoundLine(1, evaluation={"accuracy": math.nan}))
    raise ZeroDivisionError


def test_the_cursor_comes_back_when_a_run_fails() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    with pytest.raises(ZeroDivisionError), progress(console) as observer:
        fail(observer)
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch(Quiet(), 3)
    assert capsys.readouterr() == ("", "")
