import json
import os
import time
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.server.standing import Standing, read_standing, write_standing


def test_what_is_written_is_read_with_its_writer(tmp_path: Path) -> None:
    before = time.time()
    write_standing(tmp_path, Standing("demo", round=4, rounds=10, evaluation={"loss": 0.5}))
    found = read_standing(tmp_path)
    assert (found.name, found.round, found.evaluation) == ("demo", 4, {"loss": 0.5})
    assert (found.phase, found.pid) == ("waiting", os.getpid())
    assert found.written >= before
    write_standing(tmp_path, Standing("demo", phase="finished"))
    assert read_standing(tmp_path).phase == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["standing.json"]


def test_the_time_that_is_left() -> None:
    assert Standing("demo", round=4, rounds=10).eta is None
    # rounds 4 to 10 are seven
    assert Standing("demo", round=4, rounds=10, seconds_per_round=2.0).eta == 14.0
    assert Standing("demo", round=12, rounds=10, seconds_per_round=2.0).eta == 0.0


def test_where_nobody_has_worked(tmp_path: Path) -> None:
    for text in (None, "not JSON", "[]", json.dumps({"nonsense": 1})):
        if text is not None:
            (tmp_path / "standing.json").write_text(text)
        with pytest.raises(RunError, match="no server has worked here"):
            read_standing(tmp_path)


def test_a_view_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    write_standing(tmp_path / "nowhere", Standing("demo"))
    (tmp_path / "standing.json").mkdir()
    write_standing(tmp_path, Standing("demo"))
    assert not (tmp_path / ".standing.json.tmp").exists()
