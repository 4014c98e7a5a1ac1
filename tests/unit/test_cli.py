import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic_run import synthetic_run

from fedloom import __version__
from fedloom.cli import main
from fedloom.core.errors import DataError
from fedloom.core.job import Job
from fedloom.results.observe import Observer, RoundLine, RunInfo, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.sources import job_of

Simulate = Callable[..., None]


def two_rounds(job: Job, *, observer: Observer, resume: bool, overwrite: bool) -> None:
    """A run as the simulator would have it, without the training."""
    run = RunDirectory.create(job, resume=resume, overwrite=overwrite)
    observer.started(RunInfo(job.name, run.path, 2, ("train",), clients=4, backbone="minilm"))
    for number in (0, 1, 2):
        line = RoundLine(number, "train", 4, 0, 1.0, evaluation={"accuracy": number / 4})
        run.append(line)
        observer.round_done(line)
    summary = Summary({"accuracy": 0.0}, {"accuracy": 0.5}, 2, 1.0, run.path)
    run.write_summary(summary)
    observer.finished(summary)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration file in an otherwise empty current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text('name = "demo"\nrounds = 2\n')
    return "job.toml"


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Callable[[Simulate], None]:
    """Puts a function in the place of the simulator's."""

    def put(simulate: Simulate) -> None:
        module = ModuleType("simulator")
        module.simulate = simulate  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fedloom.simulation.simulator", module)

    put(two_rounds)
    return put


@pytest.mark.usefixtures("simulator")
def test_simulate_shows_rounds_and_ends_with_a_summary(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", job]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "round 2/2 train: loss 1, accuracy 50.0 %" in shown.err
    assert "  before     accuracy 0.0 %\n  federated  accuracy 50.0 %" in shown.err
    assert "runs/demo/report.html" in shown.err
    assert Path("runs/demo/report.html").exists()


@pytest.mark.usefixtures("simulator")
def test_set_and_out_change_the_job(job: str) -> None:
    arguments = ["--set", "local.lr=0.5", "--set", "strategy=fedadam", "--out", "here", "--quiet"]
    assert main(["simulate", job, *arguments]) == 0
    config = json.loads(Path("here/config.json").read_text())
    assert config["stages"][0]["local"]["lr"] == 0.5
    assert config["stages"][0]["strategy"] == {"name": "fedadam"}


@pytest.mark.usefixtures("simulator")
def test_json_is_one_event_per_line_on_stdout(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", job, "--json"]) == 0
    shown = capsys.readouterr()
    events = [json.loads(text)["event"] for text in shown.out.splitlines()]
    assert events == ["started", "round", "round", "round", "finished"]
    assert shown.err == ""


@pytest.mark.usefixtures("simulator")
def test_quiet_shows_nothing(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", job, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("simulator")
def test_a_run_is_not_run_over_by_mistake(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", job, "--quiet"])
    assert main(["simulate", job, "--quiet"]) == 2
    assert "--overwrite runs it again" in capsys.readouterr().err
    assert main(["simulate", job, "--quiet", "--overwrite"]) == 0


def test_a_mistake_is_one_line_and_status_2(
    job: str, simulator: Callable[[Simulate], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise DataError("reviews.csv: no column 'label'")

    simulator(fails)
    assert main(["simulate", job]) == 2
    assert capsys.readouterr().err == "fedloom: error: reviews.csv: no column 'label'\n"


def test_a_defect_keeps_its_traceback(job: str, simulator: Callable[[Simulate], None]) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    simulator(fails)
    with pytest.raises(ZeroDivisionError):
        main(["simulate", job])


def test_ctrl_c_says_how_to_go_on(
    job: str, simulator: Callable[[Simulate], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    simulator(stopped)
    assert main(["simulate", job]) == 130
    text = "fedloom: interrupted; to go on, give the same command with --resume\n"
    assert capsys.readouterr().err == text


def test_a_run_that_ended_early_has_the_status_of_an_interrupt(
    job: str, simulator: Callable[[Simulate], None]
) -> None:
    def early(_: Job, *, observer: Observer, **__: Any) -> None:
        observer.finished(Summary({}, {}, 1, 1.0, Path("runs/demo"), interrupted=True))

    simulator(early)
    assert main(["simulate", job, "--quiet"]) == 130


def test_resume_and_overwrite_exclude_each_other(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", job, "--resume", "--overwrite"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_missing_configuration(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "gone.toml"]) == 2
    assert "gone.toml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["simulat"], ["simulate"], ["report"]])
def test_wrong_arguments_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    shown = capsys.readouterr().err
    assert shown.startswith("fedloom: error: ")
    assert shown.count("\n") == 1
    assert "--help" in shown


def test_init_writes_a_configuration_once(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    assert job_of(Path("fedloom.toml")) == Job()
    assert "fedloom simulate fedloom.toml" in capsys.readouterr().out
    assert main(["init"]) == 2
    assert "fedloom.toml: exists" in capsys.readouterr().err


def test_list_shows_names_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "backbones"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("backbones:\n  minilm ")
    assert main(["list"]) == 0
    assert {"strategies:", "codecs:", "recipes:"} <= set(capsys.readouterr().out.splitlines())


def test_list_of_an_unknown_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models"]) == 2
    assert "fedloom: error: group 'models': known: adapters, attacks" in capsys.readouterr().err


def test_report_prints_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = synthetic_run(tmp_path / "a", done=1)
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"


def test_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["report", str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err


def test_fetch_prints_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(name: str, progress: Callable[[int, int], None]) -> Path:
        progress(5, 10)
        return Path("/cache") / name

    module = ModuleType("fetch")
    module.fetch = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedloom.backbones.fetch", module)
    assert main(["fetch", "minilm"]) == 0
    assert capsys.readouterr().out == "/cache/minilm\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["simulate", "--help"], ["list"]])
def test_no_torch_for_words(arguments: list[str]) -> None:
    code = """if True:
        import contextlib, sys
        from fedloom.cli import main
        with contextlib.suppress(SystemExit):
            main(sys.argv[1:])
        loaded = {"torch", "matplotlib", "transformers"} & set(sys.modules)
        sys.exit(", ".join(loaded) or 0)"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fedloom" in done.stdout or "strategies" in done.stdout


def test_version() -> None:
    code = "from fedloom.cli import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"fedloom {__version__}\n"


def test_sweep_explains_itself_and_lists_what_it_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "[sweep] table" in text
    assert "--grid KEY=V1,V2" in text
    assert main(["sweep", "tiers", "--grid", "seed=0,1", "--dry-run"]) == 0
    assert capsys.readouterr().out == "1/2  seed=0\n2/2  seed=1\n"
    assert main(["sweep", "tiers"]) == 2
    assert "nothing varies" in capsys.readouterr().err


def test_a_target_is_told_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(synthetic_run(tmp_path / name).path) for name in ("one", "two")]
    assert main(["report", *runs, "--out", str(tmp_path / "both"), "--target", "0.5"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["run", "one", "two"]
