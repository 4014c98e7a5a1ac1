from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedloom.core.errors import RunError, SplitError
from fedloom.server.split_journal import Journal, Moved, SessionRow

ROW = SessionRow("a/1", "a", "", b"opened", 3, 7, (b"answer",))


def state(value: float) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"values": torch.full((1, 2), value), "version": torch.tensor([int(value)])}


def test_what_is_written_is_there_in_another_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "split.sqlite")
    assert journal.shared() is None
    journal.write(ROW, state(1.0))
    own = replace(ROW, key="b/1", client="b", lane="b/1", step=1)
    journal.write(own, state(2.0))
    journal.write(replace(ROW, step=4, version=8), state(3.0))  # in place of step 3
    journal.close()
    again = Journal(tmp_path / "split.sqlite")
    found = {row.key: (row, kept["values"].tolist()) for row, kept in again.rows()}
    assert found == {
        "a/1": (replace(ROW, step=4, version=8), [[3.0, 3.0]]),
        "b/1": (own, [[2.0, 2.0]]),
    }
    shared = again.shared()
    assert shared is not None
    assert int(shared["version"]) == 3
    again.close()


def test_a_session_that_is_over_takes_its_own_tensors_along(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "split.sqlite")
    own = replace(ROW, key="b/1", lane="b/1")
    journal.write(ROW, state(1.0))
    journal.write(own, state(2.0))
    journal.forget("a/1", "", "a", Moved(7, 0, 0, torch.zeros(1, 0)))
    journal.forget("b/1", "b/1", "b", Moved(2, 30, 20, torch.ones(1, 2)))
    assert list(journal.rows()) == []
    assert journal.shared() is not None
    found = journal.moved("b")
    assert found is not None
    assert (found.version, found.sent, found.received) == (2, 30, 20)
    assert found.delta.tolist() == [[1.0, 1.0]]
    assert journal.moved("c") is None
    journal.write(replace(own, lane="c"), state(1.0))
    assert [row.lane for row, _ in journal.rows()] == ["c"]
    journal.close()


def test_a_later_session_of_a_client_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "split.sqlite")
    for version in (3, 1):
        journal.forget(f"a/{version}", "", "a", Moved(version, 5, 4, torch.zeros(1, 2)))
    journal.close()
    again = Journal(tmp_path / "split.sqlite")
    found = again.moved("a")
    assert found is not None
    assert found.version == 1
    again.close()
    with pytest.raises(SplitError, match="what this session was for is over"):
        again.write(ROW, state(1.0))


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be used"):
        Journal(tmp_path / "nowhere" / "split.sqlite")
