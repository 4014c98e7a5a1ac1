import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import RunError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params, State

LAYOUT = Layout((TensorSpec("a", (2,)), TensorSpec("b", (1, 1))))


def a_state() -> State:
    slots: dict[str, NDArray[np.generic]] = {
        "m": np.array([1, 2, 3], dtype=np.float32),
        "count": np.array(7, dtype=np.int64),
        "column": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "mask": np.array([True, False]),
    }
    notes: dict[str, float | int | str | bool] = {"lr": 0.1, "stage": 2, "name": "é", "on": True}
    return State(Params(LAYOUT, np.array([0.1, -0.0, 1e-45], dtype=np.float32)), 3, slots, notes)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path, state = tmp_path / "state.safetensors", a_state()
    save_state(path, state, {"round": 3, "seen": [1, None, {"x": 0.1}]})
    loaded, facts = load_state(path, LAYOUT)
    assert facts == {"round": 3, "seen": [1, None, {"x": 0.1}]}
    assert (loaded.version, loaded.notes) == (3, state.notes)
    assert loaded.params.vector.tobytes() == state.params.vector.tobytes()
    assert loaded.slots.keys() == state.slots.keys()
    for name, array in state.slots.items():
        assert loaded.slots[name].dtype == array.dtype
        assert np.array_equal(loaded.slots[name], array)
        assert loaded.slots[name].shape == array.shape


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, a_state(), {"round": 1})
    save_state(path, a_state(), {"round": 2})
    assert load_state(path, LAYOUT)[1] == {"round": 2}
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, a_state(), {"round": 1})
    bad = State(a_state().params, 4, {"names": np.array(["a"], dtype=object)})
    with pytest.raises(RunError, match=r"state.safetensors: cannot be written"):
        save_state(path, bad, {})
    with pytest.raises(RunError, match="cannot be written: Object of type set is not JSON"):
        save_state(path, a_state(), {"facts": {1, 2}})
    with pytest.raises(RunError, match="cannot be written"):
        save_state(tmp_path / "missing" / "state.safetensors", a_state(), {})
    assert load_state(path, LAYOUT)[1] == {"round": 1}
    assert os.listdir(tmp_path) == ["state.safetensors"]


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, a_state(), {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"state.safetensors: not a whole safetensors file"):
        load_state(path, LAYOUT)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none.safetensors: no such checkpoint"):
        load_state(tmp_path / "none.safetensors", LAYOUT)
    with pytest.raises(RunError, match="not a whole safetensors file"):
        load_state(tmp_path, LAYOUT)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"params": np.zeros(3, dtype=np.float32)}, path)
    with pytest.raises(RunError, match=r"not a checkpoint of fedloom \(format None\)"):
        load_state(path, LAYOUT)
    save_file({"x": np.zeros(3)}, path, {"format": "fedloom-state-1", "digest": LAYOUT.digest})
    with pytest.raises(RunError, match="a damaged checkpoint: KeyError: 'params'"):
        load_state(path, LAYOUT)


def test_a_vector_that_does_not_fit_the_layout_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    head = {"format": "fedloom-state-1", "digest": LAYOUT.digest, "version": json.dumps(0)}
    save_file({"params": np.zeros(2, dtype=np.float32)}, path, head)
    with pytest.raises(RunError, match=r"LayoutError: vector: expected float32 \[3\], got"):
        load_state(path, LAYOUT)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((TensorSpec("a", (2,)), TensorSpec("b", (2, 1))), r"'b': the model has \(2, 1\), the fil"),
        ((TensorSpec("c", (2,)),), "'c': the model has .* the file no such tensor"),
        ((TensorSpec("a", (2,)),), "tensor 'b': only the file has it"),
        ((TensorSpec("b", (1, 1)), TensorSpec("a", (2,))), "the same tensors in another order"),
    ],
)
def test_another_layout_is_told_by_the_first_difference(
    tmp_path: Path, specs: tuple[TensorSpec, ...], message: str
) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, a_state(), {})
    with pytest.raises(RunError, match=f"of another layout: .*{message}"):
        load_state(path, Layout(specs))
