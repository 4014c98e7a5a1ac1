"""What a frozen backbone is judged by before and after it is stored in fewer bits."""

from pathlib import Path

import pytest
import torch
from small_jobs import labelled_rows, write_rows
from torch.nn import functional

from fedloom.cli import main
from fedloom.core.job import Job
from fedloom.sources import job_of
from fedloom.tuning.probe import fitted, probe_of


def test_the_fit_is_the_minimum_on_standardised_features() -> None:
    torch.manual_seed(0)
    features = torch.randn(60, 5) * torch.tensor([1.0, 10, 0.1, 1, 1]) + 3
    features[:, 4] = 7.0  # says nothing, and has no spread to divide by
    labels = torch.randint(3, (60,))
    weight, bias = fitted(features, labels, 3)
    # In x' = (x - m) / s the weights are w' = w s and the bias b' = b + w m; the gradient of
    # mean loss + 0.05 |w'|^2 vanishes there.
    wide = features.double()
    mean, spread = wide.mean(0), wide.std(0, correction=0).clamp_min(1e-12)
    own = (weight * spread).requires_grad_()
    level = (bias + weight @ mean).requires_grad_()
    loss = functional.cross_entropy((wide - mean) / spread @ own.T + level, labels)
    (loss + 0.05 * own.square().sum()).backward()
    assert own.grad is not None
    assert level.grad is not None
    assert own.grad.abs().max() < 1e-5
    assert level.grad.abs().max() < 1e-5
    assert weight[:, 4].abs().max() == 0


def job(folder: Path, data: Path, *, label: str) -> Job:
    task, adapter = ("classify", "head") if label else ("causal-lm", "lora")
    table = {
        "backbone": {"name": str(folder), "task": task},
        "adapter": {"name": adapter},
        "data": {"path": str(data), "label": label},
    }
    return job_of(table)


def test_a_probe_finds_the_words_of_a_class(text_model: dict[str, Path], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", labelled_rows(400))
    folder = text_model["classify"]
    probe = probe_of(job(folder, data, label="label"), folder, 150)
    assert len(probe.train) == 150
    assert 10 < len(probe.test) < 150  # every tenth of 400 is held out
    assert probe.judged(folder)["accuracy"] > 0.8  # five of a text's six words are of its class
    assert probe.judged(folder) == probe.judged(folder)


def test_the_command_says_what_it_does_to_a_model(
    text_model: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_rows(tmp_path / "rows.jsonl", labelled_rows(100)))
    asked = ["quantize", str(text_model["causal-lm"]), str(tmp_path / "lm"), "--data", data]
    assert main(asked) == 0
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["perplexity", "of"]
    before, after = float(last[3]), float(last[5])
    assert before == pytest.approx(after, rel=0.05)
    assert before != 1.0
    asked = ["quantize", str(text_model["classify"]), str(tmp_path / "bert"), "--data", data]
    assert main([*asked, "--label", "label", "--max-examples", "50"]) == 0
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("accuracy of a linear probe fitted to 50 examples, on ")


def test_a_mistake_is_told_before_anything_is_stored(
    text_model: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_rows(tmp_path / "rows.jsonl", labelled_rows(100)))
    asked = ["quantize", str(text_model["classify"]), str(tmp_path / "out"), "--data", data]
    for more, told in (
        ([], "this backbone is no language model; --label COLUMN judges it"),
        (["--label", "topic"], "topic"),
        (["--label", "label", "--max-examples", "0"], "--max-examples = 0: 1 or more"),
    ):
        assert main([*asked, *more]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
