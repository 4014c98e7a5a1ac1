"""Tasks without torch in the memory at hand: which fit, what is said, and what runs out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_jobs import labelled_rows
from test_onnx_worker import CLASSES, SETTINGS, TABLE, frame_of, made, order_of

from fedloom.backbones.onnx.blocks import HIDDEN
from fedloom.backbones.onnx.matrices import Floats
from fedloom.backbones.onnx.runner import Feeds, Runner
from fedloom.client.prospect import prospect
from fedloom.client.settings import ClientSettings
from fedloom.client.tiers import chosen
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.job import Job, job_from

pytest.importorskip("onnxruntime")

TIERS: dict[str, Any] = {
    **TABLE,
    "learner": {"name": "backprop"},
    "codec_up": {"name": "float32"},
    "tiers": [
        {"name": "large"},
        {
            "name": "small",
            "learner": TABLE["learner"],
            "codec": {"name": "scalars"},
        },
    ],
}


@pytest.fixture
def folder(text_model: dict[str, Path]) -> Path:
    return text_model["classify"]


def test_a_budget_that_is_too_small_says_which_would_do(folder: Path) -> None:
    worker = made(folder, TABLE)
    order, frame = order_of(worker.manifest.job), frame_of(worker)
    small = replace(worker, settings=replace(SETTINGS, memory="20MB"))
    text = r"memory: 20 MB may be taken here; the smallest that would do is [\d,]+ MB \(batches in"
    for task in (small.train, small.evaluate):
        with pytest.raises(ModelError, match=text):
            task(order, "t", frame)


def test_memory_that_runs_out_makes_passes_smaller(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = made(folder, TABLE)
    order, frame = order_of(worker.manifest.job), frame_of(worker)
    expected = worker.train(order, "t", frame)[0].metrics
    whole, sizes = Runner.__call__, list[int]()

    def short(self: Runner, feeds: Feeds) -> Floats:
        tokens = feeds[HIDDEN].shape[0] * feeds[HIDDEN].shape[1]
        sizes.append(tokens)
        if tokens > 64:
            raise RuntimeError("onnxruntime: Failed to allocate memory for requested buffer")
        return whole(self, feeds)

    monkeypatch.setattr(Runner, "__call__", short)
    found = worker.train(order, "t", frame)[0].metrics
    assert max(sizes) > 64
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_tier_that_needs_torch_is_passed_over(folder: Path) -> None:
    worker = made(folder, TIERS)
    large, small = worker.fits()
    assert str(large).startswith("cannot be: learner.name = 'backprop': a device without torch has")
    assert small.way is not None
    assert chosen([large, small]) == "small"
    with pytest.raises(ConfigError, match="no tier of the job can be here; large: learner"):
        chosen([large])


def asked(job: Job, data: Path, memory: str = "2GB") -> dict[str, str]:
    given = ClientSettings(data=str(data), engine="onnx", threads=1, memory=memory)
    return dict(prospect(given, job))


def test_a_look_at_a_job(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in labelled_rows(30, clients=1)))
    whole = job_from(TIERS)
    backbone = replace(whole.backbone, name=str(folder), quantization="int4")
    job = replace(whole, name="one", backbone=backbone, data=replace(whole.data, classes=CLASSES))
    rows = asked(job, data)
    assert "a device without torch" in rows["tier large"]
    assert rows["tier small"].endswith(" MB at most")
    assert rows["tier auto"] == "would be small"
    rows = asked(job, data, "10MB")
    assert rows["tier small"].startswith("does not fit: ")
    assert "tier 'small' takes least" in rows["tier auto"]
    rows = asked(replace(job, tiers=()), data)
    assert "a device without torch has 'finite-difference'" in rows["job one"]
    rows = asked(replace(job, tiers=(), split=replace(job.split, mode="v1")), data)
    assert "a device without torch runs whole models" in rows["job one"]
