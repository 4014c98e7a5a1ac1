"""Programs for phones, run in ExecuTorch's runtime, against the model that they are made of."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from cohorts import CASES, CPU, Folders

from fedloom.backbones.formats import scheme_of
from fedloom.backbones.kernels.traceable import TRACEABLE
from fedloom.backbones.quantize import quantize
from fedloom.cli import main
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.tuning.build import build_model
from fedloom.tuning.executorch_program import check_installed, run_program, write_program
from fedloom.tuning.forward_program import ForwardProgram, Size


def forward_of(folder: Path, name: str, size: Size) -> ForwardProgram:
    task = CASES[name].task
    model = build_model(
        folder, Component("lora"), task, dtype=torch.float32, device=CPU, kernel=TRACEABLE
    )
    return ForwardProgram(model, size)


NIGHTLY = pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="minutes: nightly")


@pytest.mark.filterwarnings("ignore")  # of what ExecuTorch imports
@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("bert-mean", "int8"),
        pytest.param("bert-mean", "", marks=NIGHTLY),
        pytest.param("bert-mean", "int4-32", marks=NIGHTLY),
        pytest.param("qwen2-lm", "", marks=NIGHTLY),
    ],
)
def test_the_same_logits_under_each_perturbation(
    model_folder: Folders, tmp_path: Path, name: str, stored: str
) -> None:
    pytest.importorskip("executorch")
    folder = CASES[name].folder(model_folder)
    if stored:
        quantize(folder, tmp_path / "stored", scheme_of(stored))
        folder = tmp_path / "stored"
    forward = forward_of(folder, name, Size(perturbations=2, batch=3, length=8))
    written = write_program(forward, tmp_path / "out" / "model.pte", {"job": {"name": "x"}})
    table = json.loads(written.manifest.read_text())
    data = written.path.read_bytes()
    assert table["program"]["sha256"] == hashlib.sha256(data).hexdigest()
    # By the manifest alone: other examples, other lengths, other tensors.
    generator = torch.Generator().manual_seed(4)
    given = []
    for each in table["inputs"]:
        if each["name"] == "ids":
            given.append(torch.randint(0, 120, each["shape"], generator=generator))
        elif each["name"] == "lengths":
            given.append(torch.tensor([8, 2, 5]))
        else:
            given.append(torch.randn(each["shape"], generator=generator) * 0.1)
    found = run_program(data, given)
    assert list(found.shape) == table["outputs"][0]["shape"]
    expected = forward.run(dict(zip(forward.inputs, given, strict=True)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    names = [each["name"] for each in table["inputs"] if each["kind"] == "adapter"]
    assert names == list(forward.model.layout.names)
    assert table["layout"] == forward.model.layout.digest
    assert table["job"] == {"name": "x"}


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ConfigError, match=r"needs: pip install 'fedloom\[executorch\]'"):
        check_installed()
    (tmp_path / "job.toml").write_text('name = "x"\n')
    config, out = str(tmp_path / "job.toml"), str(tmp_path / "x.pte")
    assert main(["export", config, "--executorch", out]) == 2
    text = "an ExecuTorch program needs: pip install 'fedloom[executorch]'"
    assert capsys.readouterr().err == f"fedloom: error: {text}\n"


def test_names_that_are_no_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('name = "x"\n')
    assert main(["export", str(tmp_path / "job.toml"), "--executorch", "x.bin"]) == 2
    assert "expected a name that ends in .pte" in capsys.readouterr().err
