import json
import sys
from pathlib import Path

import pytest
from small_jobs import labelled_rows, write_rows

from fedloom.client.holdings import read_holdings, stamp
from fedloom.client.manifest import Manifest
from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import job_from

ROWS = labelled_rows(24, clients=1)


@pytest.fixture
def manifest() -> Manifest:
    job = job_from({"data": {"split": "split", "client": "client"}})
    return Manifest("f", job, ("field", "harbour", "treasury"), "digest", ())


def test_a_file(manifest: Manifest, text_model: dict[str, Path], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "own.jsonl", ROWS)
    corpus = read_holdings(str(path), manifest, text_model["classify"])
    # a sixth of the rows is marked as test; the classes are the job's, in its order
    assert (len(corpus.train), len(corpus.test)) == (20, 4)
    assert corpus.classes == manifest.classes


def test_a_function(
    manifest: Manifest,
    text_model: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = f"import json\ndef rows():\n    return json.loads({json.dumps(json.dumps(ROWS))})\n"
    (tmp_path / "own_rows_module.py").write_text(code + "def broken():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    corpus = read_holdings("own_rows_module:rows", manifest, text_model["classify"])
    assert len(corpus.train) == 20
    with pytest.raises(DataError, match=r"own_rows_module:broken'.*ZeroDivisionError"):
        read_holdings("own_rows_module:broken", manifest, text_model["classify"])
    with pytest.raises(DataError, match="ModuleNotFoundError"):
        read_holdings("no_such_module:rows", manifest, text_model["classify"])


def test_no_data(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file of examples, or module:callable"):
        read_holdings("", manifest, tmp_path)


def test_a_class_that_the_job_does_not_have(
    manifest: Manifest, text_model: dict[str, Path], tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "own.jsonl", [{"text": "x", "label": "moon", "split": "train"}])
    with pytest.raises(DataError, match="label = 'moon', but no class of the job"):
        read_holdings(str(path), manifest, text_model["classify"])


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    assert stamp(str(path)) == (0, 0)
    assert stamp("") == stamp("module:rows") == (0, 0)
    path.write_text("a")
    first = stamp(str(path))
    path.write_text("ab")
    assert first != stamp(str(path)) != (0, 0)
