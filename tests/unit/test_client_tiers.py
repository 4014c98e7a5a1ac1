"""Which kind of device memory makes of one: `--tier auto`, and what is said before it joins."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_jobs import labelled_rows

from fedloom.client.manifest import Manifest
from fedloom.client.prospect import prospect
from fedloom.client.settings import ClientSettings
from fedloom.client.stopping import Stop
from fedloom.client.tiers import Fit, chosen
from fedloom.client.worker import Worker
from fedloom.client.workshop import Workshop
from fedloom.core.errors import ModelError
from fedloom.core.job import Job, job_from
from fedloom.tuning.build import model_of
from fedloom.tuning.data import Corpus, own_examples
from fedloom.tuning.reading import reading_of
from fedloom.tuning.ways import Way

CLASSES = ("field", "harbour", "treasury")
MB = 10**6
WAY = Way(8, 1, False, 100, 50 * MB)
# The first loads torch's rules of forward mode, which the second has no use for.
TIERS = [
    {"name": "derivatives", "learner": {"name": "forward-gradient", "directions": 4}},
    {"name": "whole"},
]


def test_the_first_that_fits_in_the_job_s_order() -> None:
    found = [Fit("large", None, 900 * MB), Fit("small", WAY, 400 * MB), Fit("tiny", WAY, 300 * MB)]
    assert chosen(found) == "small"
    assert str(found[0]) == "does not fit: 900 MB would be needed"
    assert str(found[1]) == "whole batches: 400 MB at most"


def test_none_fits() -> None:
    found = [Fit("large", None, 900 * MB), Fit("small", None, 400 * MB)]
    with pytest.raises(
        ModelError, match=r"no tier of the job fits .*; tier 'small' takes least, 40"
    ):
        chosen(found)


def job_of(folder: Path) -> Job:
    table = {
        "backbone": {"name": str(folder), "max_tokens": 32},
        "data": {"split": "split"},
        "adapter": {"name": "lora", "rank": 2},
        "tiers": TIERS,
    }
    return job_from(table)


def read(job: Job, folder: Path) -> Corpus:
    config = replace(job.data, classes=CLASSES)
    return own_examples(labelled_rows(30, clients=1), config, reading_of(job.backbone, folder))


def worker_of(job: Job, folder: Path, scratch: Path, memory: str) -> Worker:
    cpu = torch.device("cpu")
    model = model_of(job, folder, CLASSES, dtype=torch.float32, device=cpu)
    manifest = Manifest("f", job, CLASSES, model.layout.digest, ())
    settings = ClientSettings(threads=1, device="cpu", memory=memory, tier="auto")
    return Worker(manifest, folder, read(job, folder), settings, scratch)


def totals(text_model: dict[str, Path], tmp_path: Path) -> list[int]:
    folder = text_model["classify"]
    fits = worker_of(job_of(folder), folder, tmp_path, "64GB").fits()
    assert [fit.tier for fit in fits] == ["derivatives", "whole"]
    assert all(fit.way is not None for fit in fits)
    return [fit.total for fit in fits]


def test_memory_says_what_kind_a_device_is(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = text_model["classify"]
    job, (large, small) = job_of(folder), totals(text_model, tmp_path)
    assert large > small + 50 * MB
    for memory, tier in ((large + 30 * MB, "derivatives"), ((large + small) // 2, "whole")):
        workshop = made_workshop(tmp_path)
        worker = worker_of(job, folder, tmp_path, str(memory))
        monkeypatch.setattr(workshop, "_at_work", lambda *_, worker=worker: worker)
        workshop._choose_tier(worker.manifest, worker.corpus)
        assert workshop.tier == tier


def made_workshop(tmp_path: Path) -> Workshop:
    given = ClientSettings(data=str(tmp_path / "own.csv"), tier="auto")
    far: Any = SimpleNamespace
    return Workshop(tmp_path / "state", given, federation="f", stop=Stop(), far=far)


def test_a_job_without_tiers_needs_no_choice(text_model: dict[str, Path], tmp_path: Path) -> None:
    job = replace(job_of(text_model["classify"]), tiers=())
    workshop = made_workshop(tmp_path)
    manifest = Manifest("f", job, CLASSES, "0" * 64, ())
    workshop._choose_tier(manifest, read(job, text_model["classify"]))  # loads no model
    assert workshop.tier == ""


def test_a_look_at_a_job(text_model: dict[str, Path], tmp_path: Path) -> None:
    folder = text_model["classify"]
    job = job_of(folder)
    data = tmp_path / "own.csv"
    lines = [f"{row['text']},{row['label']},{row['split']}" for row in labelled_rows(30, clients=1)]
    data.write_text("\n".join(["text,label,split", *lines]))
    given = ClientSettings(data=str(data), threads=1, device="cpu", memory="64GB")
    rows = dict(prospect(given, job))
    assert rows["tier derivatives"].startswith("whole batches: ")
    assert rows["tier auto"] == "would be derivatives"
    rows = dict(prospect(replace(given, memory="10MB"), job))
    assert rows["tier whole"].startswith("does not fit: ")
    assert "tier 'whole' takes least" in rows["tier auto"]
    alone = prospect(given, replace(job, name="one", tiers=()))
    assert alone[0][0] == "job one"
    assert alone[0][1].startswith("whole batches: ")
    (bad,) = prospect(replace(given, data="no.csv"), job)
    assert bad[1].startswith("cannot take part: ")
