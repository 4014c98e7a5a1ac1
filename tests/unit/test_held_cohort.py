"""The file that holds a round's updates: what it refuses, says of the disk, and when it goes."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.errors import LayoutError, RunError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta
from fedloom.strategies.held_cohort import HeldCohort, hold

A, B = TensorSpec("a", (2, 2)), TensorSpec("b", (3,))
LAYOUT = Layout((A, B))


def _update(client: str, values: list[float], *specs: TensorSpec) -> ClientUpdate:
    delta = Delta(Layout(specs or LAYOUT.specs), np.array(values, dtype=np.float32))
    return ClientUpdate(client, 1, 5, delta=delta)


def test_absent_tensors_are_told_apart_from_zeros() -> None:
    held = hold(hold(None, _update("z", [0, 0, 0], B)), _update("k", [1, 2, 3, 4, 5, 6, 7]))
    held.add(ClientUpdate("nothing", 1, 5, delta=Delta(Layout(()), np.zeros(0, np.float32))))
    blocks = [(b.span, b.present.tolist(), b.rows.tolist()) for b in held.blocks(LAYOUT)]
    assert blocks == [
        (slice(0, 4), [True, False, False], [[1, 2, 3, 4], [0] * 4, [0] * 4]),
        (slice(4, 7), [True, False, True], [[5, 6, 7], [0] * 3, [0] * 3]),
    ]


def test_what_a_rule_leaves_in_a_block_is_not_in_the_next() -> None:
    held = hold(hold(None, _update("z", [9, 8, 7], B)), _update("k", [1] * 7))
    found = []
    for block in held.blocks(LAYOUT, memory=16):
        found.append(block.rows.tolist())
        block.rows[:] = 5
    assert found == [[[1, 1], [0, 0]], [[1, 1], [0, 0]], [[1, 1], [9, 8]], [[1], [7]]]


def test_tensors_that_the_same_clients_have_are_one_block() -> None:
    held = hold(hold(None, _update("z", [0] * 7)), _update("k", [1] * 7))
    assert [block.span for block in held.blocks(LAYOUT)] == [slice(0, 7)]


def test_rows_may_begin_and_end_inside_tensors() -> None:
    held = hold(hold(None, _update("z", [9, 8, 7], B)), _update("k", [1, 2, 3, 4, 5, 6, 7]))
    assert held.rows(LAYOUT, slice(3, 6)).tolist() == [[4, 5, 6], [0, 9, 8]]


def test_a_tensor_comes_back_in_the_shape_that_it_was_sent_in() -> None:
    narrow = TensorSpec("a", (1, 2))
    held = hold(hold(None, _update("z", [5, 6, 1, 2, 3], narrow, B)), _update("k", [1, 2, 3], B))
    k, z = held.updates
    assert held.tensor(k, "a") is None
    found = held.tensor(z, "a")
    assert found is not None
    assert found.tolist() == [[5, 6]]
    with pytest.raises(LayoutError, match=r"tensor 'a': expected \(2, 2\), got \(1, 2\)"):
        held.rows(LAYOUT, slice(0, 7))


def test_what_cannot_be_held_is_refused_and_changes_nothing() -> None:
    held = hold(None, _update("k", [1] * 7))
    with pytest.raises(UpdateRefusedError, match="'k': an update of it is already held"):
        held.add(_update("k", [2] * 7))
    with pytest.raises(UpdateRefusedError, match="'z': the delta is not finite"):
        held.add(_update("z", [float("nan")] * 7))
    with pytest.raises(UpdateRefusedError, match="'z': the update is not decoded"):
        held.add(ClientUpdate("z", 1, 5))
    with pytest.raises(UpdateRefusedError, match="'z': num_examples = -1; below 0"):
        held.add(ClientUpdate("z", 1, -1, delta=_update("z", [1] * 7).delta))
    assert held.rows(LAYOUT, slice(0, 7)).tolist() == [[1] * 7]


def test_the_file_has_no_name_and_is_closed_with_its_total(tmp_path: Path) -> None:
    held = HeldCohort(str(tmp_path))
    held.add(_update("k", [1] * 7))
    assert list(tmp_path.iterdir()) == []
    number = held._file.fileno()
    os.fstat(number)
    del held
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot hold the cohort's updates: .*No such file"):
        HeldCohort(str(tmp_path / "none"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_the_total_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = hold(None, _update("k", [1] * 7))
    whole = held._file
    with open("/dev/full", "r+b", buffering=0) as full:
        monkeypatch.setattr(held, "_file", full)
        text = "of 1 clients held: cannot hold the cohort's updates: .*No space left.*TMPDIR"
        with pytest.raises(RunError, match=text):
            held.add(_update("z", [2] * 7))
    monkeypatch.setattr(held, "_file", whole)
    held.add(_update("z", [3] * 7))
    assert held.rows(LAYOUT, slice(6, 7)).tolist() == [[1], [3]]
