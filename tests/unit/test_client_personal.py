import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedloom.client.manifest import Manifest
from fedloom.client.personal import OwnTensors
from fedloom.core.errors import TransferError
from fedloom.core.job import Job
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params

HEAD = Layout((TensorSpec("head.bias", (2,)),))
WHOLE = Layout((TensorSpec("lora.A", (1,)), TensorSpec("head.bias", (2,))))
GLOBAL = Params(WHOLE, np.array([9, 5, 6], dtype=np.float32))
MANIFEST = Manifest("f", Job(seed=7), ("a",), WHOLE.digest, ())


def head(*values: float) -> Params:
    return Params(HEAD, np.array(values, dtype=np.float32))


def before(own: OwnTensors, round: int) -> list[float]:
    return [float(x) for x in own.before(round, GLOBAL).vector]


def test_a_round_starts_from_the_newest_of_earlier_ones(tmp_path: Path) -> None:
    own = OwnTensors(tmp_path, MANIFEST, HEAD)
    assert before(own, 1) == [5.0, 6.0]
    own.keep(1, head(1, 1))
    own.keep(4, head(4, 4))
    again = OwnTensors(tmp_path, MANIFEST, HEAD)  # as after a restart
    assert [before(again, n) for n in (1, 2, 4, 5)] == [[5, 6], [1, 1], [1, 1], [4, 4]]
    again.keep(4, head(7, 7))  # the same task once more
    assert before(again, 9) == [7.0, 7.0]


def test_few_rounds_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = OwnTensors(tmp_path, MANIFEST, HEAD)
    for number in range(1, 7):
        own.keep(number, head(number, 0))
    assert before(own, 5) == [4.0, 0.0]
    # A server that went back to round 2: what is oldest here is of round 3.
    assert before(own, 2) == [3.0, 0.0]
    assert "own tensors are of round 3 at the oldest" in caplog.text


def test_other_jobs_have_their_own(tmp_path: Path) -> None:
    OwnTensors(tmp_path, MANIFEST, HEAD).keep(1, head(1, 1))
    longer = replace(MANIFEST, job=Job(seed=7, name="and so on"))
    assert before(OwnTensors(tmp_path, longer, HEAD), 2) == [1.0, 1.0]
    for other in (replace(MANIFEST, federation="g"), replace(MANIFEST, job=Job(seed=8))):
        assert before(OwnTensors(tmp_path, other, HEAD), 2) == [5.0, 6.0]


def test_what_cannot_be_read_is_as_if_it_were_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = OwnTensors(tmp_path, MANIFEST, HEAD)
    own.keep(1, head(1, 1))
    own.keep(2, head(2, 2))
    (newest,) = tmp_path.glob("*/round-000002.safetensors")
    newest.write_bytes(b"half of it")
    assert before(own, 3) == [1.0, 1.0]
    assert "tensors that were kept cannot be read" in caplog.text


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    own = OwnTensors(tmp_path, MANIFEST, HEAD)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    with pytest.raises(TransferError, match="cannot be written") as caught:
        own.keep(1, head(1, 1))
    assert caught.value.code == "disk-full"
