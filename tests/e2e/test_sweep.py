"""A sweep over the tiny model: its table, a combination that cannot run, a kill in the middle."""

import json
import signal
import time
from pathlib import Path

import pytest
from command_forks import Process, start
from small_jobs import labelled_rows, write_rows

import fedloom
from fedloom.core.errors import ConfigError
from fedloom.record import Record


@pytest.fixture
def config(tmp_path: Path, text_model: dict[str, Path]) -> Path:
    """Adapters by seeds, four rounds each, on a modelled device."""
    data = write_rows(tmp_path / "rows.jsonl", labelled_rows())
    path = tmp_path / "own.toml"
    path.write_text(
        f"""
name = "own"
rounds = 4
clients_per_round = 3
device = "rpi4"
backbone = {{ name = "{text_model["classify"]}", max_tokens = 32, head_init = "normal" }}
data = {{ path = "{data}", client = "client", split = "split" }}
run = {{ workers = 1, cache_gb = 0.1, cache_disk_gb = 0.0 }}

[sweep]
"adapter.name" = ["lora", "no-such-adapter", "head"]
seed = [0, 1]
"""
    )
    return path


def swept(config: Path, *more: str) -> Process:
    return start(["sweep", config, *more], config.parent)


def test_a_sweep_that_was_killed_goes_on_and_a_refused_combination_ends_nothing(
    config: Path,
) -> None:
    first = swept(config, "--out", "all")
    folder = config.parent / "all"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*/summary.json"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    whole = {path: path.read_bytes() for path in folder.glob("*/summary.json")}
    assert whole
    second = swept(config, "--out", "all")
    text, log = second.communicate(timeout=120)
    assert second.wait() == 0, log
    assert {path: path.read_bytes() for path in whole} == whole  # not run again
    records = [Record.read(path.parent) for path in sorted(folder.glob("*/config.json"))]
    assert [record.state for record in records] == ["finished"] * 4
    assert len({json.dumps(r.config["seed"]) + r.config["adapter"]["name"] for r in records}) == 4
    head, lora, unknown, only = text.splitlines()
    assert head.startswith("adapter")
    assert [line.split()[0] for line in (lora, unknown, only)] == [
        "lora",
        "no-such-adapter",
        "head",
    ]
    assert "adapters: unknown name 'no-such-adapter'" in unknown
    assert (folder / "sweep.csv").read_text().count("\n") == 4
    assert "no-such-adapter" in (folder / "report.html").read_text()


def test_it_stops_at_an_interrupt_and_says_so(config: Path) -> None:
    process = swept(config, "--out", "cut", "--set", "rounds=400")
    deadline = time.monotonic() + 60
    while not list((config.parent / "cut").glob("*/checkpoints/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text, log = process.communicate(timeout=60)
    assert process.wait() == 130
    assert "interrupted: the same command goes on" in log
    assert len(text.splitlines()) == 2


def test_side_by_side_is_the_same_table(config: Path) -> None:
    short = ("--set", "rounds=1", "--grid", "adapter.name=lora,head", "--quiet")
    text, log = swept(config, "--out", "beside", "--jobs", "2", *short).communicate(timeout=120)
    one, _ = swept(config, "--out", "alone", *short).communicate(timeout=120)
    assert text == one, log
    names = [{p.name for p in (config.parent / out).iterdir()} for out in ("beside", "alone")]
    assert names[0] == names[1]
    # a part runs its own combinations, and writes no table of them
    text, log = swept(config, "--out", "part", "--part", "2/4", *short).communicate(timeout=120)
    (only,) = (config.parent / "part").iterdir()
    ran = Record.read(only).config
    assert (text, ran["adapter"]["name"], ran["seed"]) == ("", "lora", 1)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--part", "3/2", "expected I/N with I from 1 to N"),
        ("--part", "2", "expected I/N with I from 1 to N"),
        ("--jobs", "0", "expected 1 or more"),
    ],
)
def test_numbers_that_are_none(config: Path, option: str, value: str, expected: str) -> None:
    process = swept(config, option, value)
    _, log = process.communicate(timeout=60)
    assert (process.wait(), expected in log) == (2, True)


def test_from_python(config: Path) -> None:
    below = config.read_text().partition("[sweep]")[0]
    config.write_text(below)
    adapters = [{"name": "lora", "rank": 2}, "head"]
    grid: dict[str, list[object]] = {"adapter": [*adapters], "rounds": [1]}
    outcomes = fedloom.sweep(config, grid=grid, out=config.parent / "py", settings={"seed": 3})
    assert [outcome.state for outcome in outcomes] == ["finished"] * 2
    assert all(outcome.spent["joules"] > 0 for outcome in outcomes)
    assert outcomes[0].settings == {"adapter": {"name": "lora", "rank": 2}, "rounds": 1}
    again = fedloom.sweep(config, grid=grid, out=config.parent / "py")  # another seed's folders
    assert all("another job: seed is 3 there and 0 now" in outcome.why for outcome in again)
    with pytest.raises(ConfigError, match="nothing varies"):
        fedloom.sweep(config, grid={}, out=config.parent / "none")
