"""Every mistake of a user's ends in one line that says what, where and what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from small_jobs import classify_table, fedloom, labelled_rows, write_rows, write_toml

from fedloom.cli import main


@pytest.fixture
def job(text_model: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a job that works, and the results of another run in ``kept``."""
    write_rows(tmp_path / "rows.jsonl", labelled_rows(96))
    write_toml(tmp_path / "job.toml", classify_table(text_model["classify"], "rows.jsonl"))
    (tmp_path / "kept").mkdir()
    other = {"name": "another", "seed": 4}
    (tmp_path / "kept" / "config.json").write_text(json.dumps(other))
    (tmp_path / "kept" / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1}\n')
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check(code: int, out: str, err: str, expected: str) -> None:
    """One line, which says what is expected."""
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("fedloom: error: ")
    assert re.search(expected, err), err


SETTINGS = {
    "an unknown key": (
        "local.learning_rate=0.1",
        r"local\.learning_rate: unknown key; known: batch_size, .*",
    ),
    "a value out of range": ("local.lr=-1", r"local\.lr = -1.*above 0"),
    "another type": ("rounds=many", r"rounds = 'many': expected a whole number"),
    "an unknown option": (
        'strategy={name="fedavg", mu=1}',
        r"strategies\.fedavg: unknown option 'mu'",
    ),
    "an unknown codec": ("codec_up=zip", r"codecs: unknown name 'zip'; known: bf16"),
    "no such module": ("learner=nowhere:Learner", r"no module 'nowhere', and no file nowhere\.py"),
    "tensors that are not there": ("train=lorra", r"'lorra' matches nothing; .*lora"),
    "layers that are not there": ("adapter.layers=[9]", r"adapter\.layers = 9.*layers 0 to 2"),
    "no such data file": ("data.path=gone.csv", r"gone\.csv: no such file"),
    "no such backbone": ("backbone.name=./nowhere", r"nowhere"),
    "too many clients": (
        'partition={name="iid", clients=100000}',
        r"partition\.clients = 100000: at most",
    ),
}


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_setting_that_cannot_be_used(
    mistake: str,
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting, expected = SETTINGS[mistake]
    before = contents(job)
    monkeypatch.chdir(job)

    # --overwrite, because what is there must outlive a job that cannot run
    code = main(["simulate", "job.toml", "--out", "kept", "--overwrite", "--set", setting])

    captured = capsys.readouterr()
    check(code, captured.out, captured.err, expected)
    assert contents(job) == before


FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no such configuration": (
        lambda job: None,
        ("nothing.toml",),
        r"nothing\.toml: no such file; `fedloom init",
    ),
    "malformed TOML": (
        lambda job: (job / "job.toml").write_text("name = 'x'\nrounds = = 3\n"),
        ("job.toml",),
        r"job\.toml: not valid TOML: .*line 2",
    ),
    "an unseen label": (
        lambda job: write_rows(
            job / "rows.jsonl",
            [
                *labelled_rows(96),
                {"text": "a", "label": "sea", "client": "c00", "split": "test"},
            ],
        ),
        ("job.toml",),
        r"rows\.jsonl, line 97: label = 'sea', but no training example has that label",
    ),
    "a column that is not there": (
        lambda job: None,
        ("job.toml", "--set", "data.label=topic"),
        r"rows\.jsonl.*no column 'topic'",
    ),
    "an unknown strategy": (
        lambda job: None,
        ("job.toml", "--out", "kept", "--overwrite", "--set", "strategy=fedavgg"),
        r"strategies: unknown name 'fedavgg'; known: .*did you mean 'fedavg",
    ),
    "a model too large": (
        lambda job: None,
        ("job.toml", "--set", "run.memory_gb=0.00001"),
        r"does not fit in memory: .* needs .* MiB, .* raise run.memory_gb or lower run.workers",
    ),
    "a row that is not JSON": (
        lambda job: (job / "rows.jsonl").write_text('{"text": "a"\n'),
        ("job.toml",),
        r"rows\.jsonl, line 1",
    ),
    "a file where the folder goes": (
        lambda job: (job / "results").write_text("mine"),
        ("job.toml", "--out", "results"),
        r"results: not a folder .*--out",
    ),
    "a folder of somebody else's": (
        lambda job: write_rows(job / "kept" / "config.json", []).rename(job / "kept" / "notes"),
        ("job.toml", "--out", "kept", "--overwrite"),
        r"kept is not empty and holds no run; choose another with --out",
    ),
    "another job's run": (
        lambda job: None,
        ("job.toml", "--out", "kept", "--resume"),
        r"kept holds a run of another job: name is 'another' there and 'small' now",
    ),
}


@pytest.mark.parametrize("mistake", FILES)
def test_what_cannot_be_used_through_the_command(mistake: str, job: Path) -> None:
    prepare, arguments, expected = FILES[mistake]
    prepare(job)
    before = contents(job)

    ended = fedloom("simulate", *arguments, cwd=job)

    check(ended.returncode, ended.stdout, ended.stderr, expected)
    assert contents(job) == before
