"""Jobs over a backbone in fewer bits: made once, refused where nothing could multiply with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import classify_table

from fedloom.backbones.formats import SCHEMES, scheme_of
from fedloom.backbones.notes import scheme_in
from fedloom.core.backbone_job import FORMATS
from fedloom.core.errors import ConfigError, ModelError
from fedloom.progress import Quiet
from fedloom.simulation.simulator import simulate
from fedloom.sources import job_of
from fedloom.tuning.build import model_of
from fedloom.tuning.kernel import kernel_needs, kernel_of
from fedloom.tuning.prepare import folder_of

CPU = torch.device("cpu")
FIXTURE = Path(__file__).parents[1] / "fixtures" / "text_era.jsonl.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table_of(backbone: Path, run: Path, **own: Any) -> dict[str, Any]:
    table = classify_table(backbone, FIXTURE, run={"directory": str(run), "workers": 1})
    table["backbone"] |= own
    return table


def test_formats_of_a_job_are_those_that_there_are() -> None:
    asked = {name for name, scheme in SCHEMES.items() if not scheme.wide}
    assert {scheme_of(name).name for name in FORMATS if name} == asked


def test_a_folder_is_stored_once_and_is_the_job(
    text_model: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    backbone = text_model["classify"]
    own = {"quantization": "int4", "kernel": "dequantize"}
    job = job_of(table_of(backbone, tmp_path / "a", **own))
    told: list[str] = []
    folder = folder_of(job.backbone, CPU, told.append)
    assert folder.parent == cache / "quantized"
    assert scheme_in(folder) == SCHEMES["int4-32"]
    assert told == [f"storing {backbone} as int4, once"]
    assert folder_of(job.backbone, CPU, told.append) == folder
    assert len(told) == 1
    run = simulate(job, observer=Quiet())
    by_name = table_of(folder, tmp_path / "b", kernel="dequantize")
    same = simulate(job_of(by_name), observer=Quiet())
    np.testing.assert_array_equal(run.params.vector, same.params.vector)
    assert [line.accepted for line in run.history] == [0] + 8 * [6]
    again = job_of(table_of(folder, tmp_path / "c", quantization="int8"))
    with pytest.raises(ModelError, match=r"stored as int4-32; .* the model that it was made from"):
        folder_of(again.backbone, CPU, told.append)


@pytest.mark.parametrize(
    ("learner", "needs"),
    [
        ("backprop", {"backward"}),
        ("finite-difference", {"fd_safe"}),
        ("forward-gradient", {"jvp_safe"}),
    ],
)
def test_learners_say_what_they_need(
    learner: str, needs: set[str], text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path, quantization="int8", kernel="dynamic-int8")
    job = job_of(table | {"learner": learner})
    assert kernel_needs(job) == needs
    folder = folder_of(job.backbone, CPU, lambda text: None)
    if learner == "finite-difference":
        with pytest.raises(
            ConfigError, match=r"'dynamic-int8': it is not fd_safe, .* 'dequantize'"
        ):
            kernel_of(job, folder, dtype=torch.float32, device=CPU)
    else:
        found = kernel_of(job, folder, dtype=torch.float32, device=CPU)
        assert found.name == "dynamic-int8"


@pytest.mark.parametrize(
    "own",
    [{"backbone": {"engine": "transformers"}}, {"adapter": {"name": "peft", "method": "LORA"}}],
)
def test_other_engines_refuse_it(
    own: dict[str, Any], text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path, quantization="int8", kernel="dequantize")
    table = {**table, **own, "backbone": {**table["backbone"], **own.get("backbone", {})}}
    job = job_of(table)
    folder = folder_of(job.backbone, CPU, lambda text: None)
    with pytest.raises(ModelError, match="in fewer bits, which the fused engine alone"):
        model_of(job, folder, ("a", "b"), dtype=torch.float32, device=CPU)


def test_names_that_are_none_are_refused(text_model: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone.quantization = 'int3': .*int8"):
        job_of(table_of(text_model["classify"], tmp_path, quantization="int3"))
    with pytest.raises(ConfigError, match=r"backbone.kernel = 'fast': .*dequantize"):
        job_of(table_of(text_model["classify"], tmp_path, kernel="fast"))
