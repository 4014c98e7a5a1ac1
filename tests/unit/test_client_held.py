import logging
from pathlib import Path

import numpy as np
import pytest

from fedloom.client.held import HeldModel
from fedloom.client.logs import log
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.step_ledger import digest_of
from fedloom.core.types import Params

LAYOUT = Layout((TensorSpec("w", (4,)),))
JOB = "a" * 64


def model(value: float) -> Params:
    return Params(LAYOUT, np.full(4, value, dtype=np.float32))


def test_one_model_outlives_the_process(tmp_path: Path) -> None:
    first = HeldModel(tmp_path, JOB)
    assert (first.version, first.digest, first.params(LAYOUT)) == (0, b"", None)
    first.keep(3, model(1.0))
    first.keep(5, model(2.0))
    again = HeldModel(tmp_path, JOB)
    assert (again.version, again.digest) == (5, digest_of(model(2.0).vector))
    found = again.params(LAYOUT)
    assert found is not None
    assert found.vector.tolist() == [2.0] * 4
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_version_of_another_run_replaces_it(tmp_path: Path) -> None:
    held = HeldModel(tmp_path, JOB)
    held.keep(3, model(1.0))
    held.keep(3, model(9.0))
    assert held.digest == digest_of(model(9.0).vector)
    assert len(list(tmp_path.iterdir())) == 1


def test_version_0_is_made_and_not_kept(tmp_path: Path) -> None:
    held = HeldModel(tmp_path, JOB)
    held.keep(3, model(1.0))
    held.keep(0, model(0.0))
    assert (held.version, held.params(LAYOUT), list(tmp_path.iterdir())) == (0, None, [])


def test_what_is_dropped_is_asked_for_until_another_is_kept(tmp_path: Path) -> None:
    held = HeldModel(tmp_path, JOB)
    held.keep(3, model(1.0))
    held.drop()
    assert (held.version, held.resync, list(tmp_path.iterdir())) == (0, True, [])
    held.keep(4, model(1.0))
    assert (held.version, held.resync) == (4, False)


def test_models_of_other_jobs_and_what_else_lies_there_go(tmp_path: Path) -> None:
    HeldModel(tmp_path, "b" * 64).keep(9, model(1.0))
    (tmp_path / ".x.tmp").write_bytes(b"half")
    (tmp_path / f"{JOB[:16]}.x.y.safetensors").write_bytes(b"")
    assert HeldModel(tmp_path, JOB).version == 0
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    HeldModel(tmp_path, JOB).keep(3, model(1.0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    held = HeldModel(tmp_path, JOB)
    with caplog.at_level(logging.WARNING):
        assert held.params(LAYOUT) is None
    assert held.resync
    assert "cannot be read" in caplog.text


def test_a_full_disk_is_no_reason_not_to_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    held = HeldModel(tmp_path / "held", JOB)
    (tmp_path / "held").rmdir()
    with caplog.at_level(logging.WARNING):
        held.keep(3, model(1.0))
    found = held.params(LAYOUT)
    assert found is not None
    assert held.version == 3
    assert "kept in memory only" in caplog.text
