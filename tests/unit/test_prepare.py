from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.job import BackboneConfig, Job, Stage
from fedloom.core.layout import Layout, TensorSpec
from fedloom.tuning.prepare import check_names, check_selectors, dtype_of, folder_of

LAYOUT = Layout((TensorSpec("w", (4,), tags=frozenset({"head"})),))
CPU = torch.device("cpu")


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("key", ["adapter", "learner", "codec_up", "codec_down"])
def test_wrong_names_are_found_before_anything_is_read(key: str) -> None:
    check_names(Job())
    with pytest.raises(ConfigError, match="unknown name 'nonsense'"):
        check_names(replace(Job(), **{key: Component("nonsense")}))  # type: ignore[arg-type]


def test_those_of_a_late_stage_too() -> None:
    stages = (Stage(), Stage(strategy=Component("fedavg", {"nonsense": 1})))
    with pytest.raises(ConfigError, match="unknown option 'nonsense'"):
        check_names(Job(stages=stages))


def test_a_stage_that_trains_nothing_is_named() -> None:
    check_selectors(Job(stages=(Stage(train=("head",)),)), LAYOUT)
    stages = (Stage(), Stage(name="late", train=("body",)))
    with pytest.raises(ConfigError, match=r"train of the stage 'late': .*'body'"):
        check_selectors(Job(stages=stages), LAYOUT)


def test_a_folder_is_its_own_backbone(text_model: dict[str, Path]) -> None:
    notes: list[str] = []
    folder = text_model["classify"]
    assert folder_of(BackboneConfig(name=str(folder)), CPU, notes.append) == folder
    assert notes == []
    with pytest.raises(ModelError, match="nowhere"):
        folder_of(BackboneConfig(name=str(folder / "nowhere")), CPU, notes.append)


def test_types_by_name_and_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dtype_of(BackboneConfig(dtype="float32"), CPU, silent) is torch.float32
    assert dtype_of(BackboneConfig(dtype="bfloat16"), CPU, silent) is torch.bfloat16
    monkeypatch.setattr("fedloom.tuning.prepare.best_dtype", lambda _: torch.bfloat16)
    notes: list[str] = []
    assert dtype_of(BackboneConfig(dtype="auto"), CPU, notes.append) is torch.bfloat16
    assert notes == ["backbone in bfloat16: the faster one here"]
