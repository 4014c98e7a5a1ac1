"""What a run leaves behind, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_jobs import classify_table, fedloom, labelled_rows, write_rows, write_toml

from fedloom.core.types import Params
from fedloom.results.history import History
from fedloom.sources import job_of
from fedloom.tuning.export import load_adapter

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def run(text_model: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_rows(folder / "rows.jsonl", labelled_rows())
    (folder / "own_strategy.py").write_bytes((EXAMPLES / "own_strategy.py").read_bytes())
    table = classify_table(text_model["classify"], "rows.jsonl", evaluate={"clients": 4})
    table["run"]["references"] = ["central", "local"]
    write_toml(folder / "job.toml", table)
    setting = 'strategy={name="own_strategy:NormClipped", norm=0.5}'
    ended = fedloom("simulate", "job.toml", "--out", "run", "--set", setting, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert "federated" in ended.stderr
    assert "report.html" in ended.stderr
    return folder / "run"


def test_every_promised_file_is_there(run: Path) -> None:
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    pictures = {name for name in files if name.startswith("plots/")}
    assert len(pictures) >= 2
    assert files - pictures == {
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/fedloom.safetensors",
        "checkpoints/round-000007.safetensors",
        "checkpoints/round-000008.safetensors",
        "choices.json",
        "clients.json",
        "config.json",
        "metrics.jsonl",
        "partition.json",
        "report.html",
        "summary.json",
        "versions.json",
    }


def test_the_history_has_a_line_for_every_round_of_both_stages(run: Path) -> None:
    history = History.read(run / "metrics.jsonl")
    assert history["round"].tolist() == list(range(9))
    assert history["stage"].tolist() == ["head"] * 4 + ["adapter"] * 5
    assert history["accepted"].tolist() == [0] + [6] * 8
    assert (np.diff(history["total_bytes_up"]) > 0).all()
    assert np.isfinite(history["evaluation.accuracy"]).all()


def test_the_summary_compares_with_the_references(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["references"]) == {"central", "local"}
    assert summary["after"]["loss"] < summary["before"]["loss"]
    assert summary["per_client"]["accuracy"]["clients"] == 4
    assert len(json.loads((run / "clients.json").read_text())) == 4


def test_the_adapter_loads_and_is_the_last_checkpoint(run: Path) -> None:
    from safetensors.numpy import load_file

    params, classes = load_adapter(run / "adapter")
    assert isinstance(params, Params)
    assert classes == ("field", "harbour", "treasury")
    last = load_file(run / "checkpoints" / "round-000008.safetensors")["params"]
    assert params.vector.tobytes() == last.tobytes()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own
def test_peft_loads_the_adapter(run: Path, text_model: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModel.from_pretrained(text_model["classify"])
    loaded = peft.PeftModel.from_pretrained(base, str(run / "adapter"))
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == 6  # q, v in 3 layers


def test_the_resolved_configuration_is_kept(run: Path) -> None:
    table = json.loads((run / "config.json").read_text())
    strategy = {"name": "own_strategy:NormClipped", "norm": 0.5}
    assert [stage["strategy"] for stage in table["stages"]] == [strategy] * 2
    assert table["seed"] == job_of(run.parent / "job.toml").seed
