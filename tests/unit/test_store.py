import numpy as np
import pytest
import torch

from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.store import Store

LAYOUT = Layout(
    (
        TensorSpec("a", (2, 2), tags=frozenset({"lora"})),
        TensorSpec("b", (3,), tags=frozenset({"lora"})),
        TensorSpec("head", (2,), tags=frozenset({"head"})),
    )
)
PARAMS = Params(LAYOUT, np.arange(9, dtype=np.float32))


def test_every_client_starts_from_the_global_values() -> None:
    store = Store(PARAMS, ("*",), clients=3)
    assert store.values.shape == store.grad.shape == (3, 9)
    assert store.values.tolist() == [list(range(9))] * 3
    assert store.start.tolist() == list(range(9))
    assert store.deltas().abs().sum() == 0


def test_rows_are_apart_from_each_other_and_from_the_global_model() -> None:
    store = Store(PARAMS, ("*",), clients=2)
    store.view("b")[1] += 1
    assert store.deltas().tolist() == [[0] * 9, [0, 0, 0, 0, 1, 1, 1, 0, 0]]
    assert PARAMS.vector.tolist() == list(range(9))


def test_a_name_is_a_view_with_the_clients_first() -> None:
    store = Store(PARAMS, ("*",), clients=2)
    assert store.view("a").tolist() == [[[0, 1], [2, 3]]] * 2
    grad = store.grad_view("head")
    assert grad is not None
    grad.add_(5)
    assert store.grad.tolist() == [[0] * 7 + [5, 5]] * 2


def test_a_tensor_that_does_not_train_is_one_for_all_and_has_no_gradient() -> None:
    store = Store(PARAMS, ("head",), clients=4)
    assert store.trained.names == ("head",)
    assert store.values.shape == (4, 2)
    assert store.view("b").tolist() == [[4, 5, 6]] * 4
    assert store.view("b").stride(0) == 0
    assert store.grad_view("b") is None
    assert store.view("head").tolist() == [[7, 8]] * 4


def test_a_selector_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(LayoutError, match="selector 'ia3' matches nothing"):
        Store(PARAMS, ("ia3",), clients=1)


def test_an_empty_selector_trains_nothing() -> None:
    store = Store(PARAMS, (), clients=1)
    assert store.values.shape == (1, 0)
    assert store.view("a").tolist() == [[[0, 1], [2, 3]]]


def test_inactive_rows_are_left_out_of_views() -> None:
    store = Store(PARAMS, ("lora",), clients=3)
    store.activate(2)
    assert store.clients == 2
    assert store.view("a").shape == (2, 2, 2)
    assert store.view("head").shape == (2, 2)
    grad = store.grad_view("b")
    assert grad is not None
    assert grad.shape == (2, 3)
    assert store.deltas().shape == (3, 7)


def test_stepped_zeroes_the_gradient_of_active_rows_only() -> None:
    store = Store(PARAMS, ("*",), clients=2)
    store.grad.fill_(1)
    store.activate(1)
    store.stepped()
    assert store.grad.sum(1).tolist() == [0, 9]


def test_casts_follow_the_values() -> None:
    store = Store(PARAMS, ("lora",), clients=2, dtype=torch.bfloat16)
    assert store.view("a").dtype == store.view("head").dtype == torch.bfloat16
    store.values.add_(1)
    store.stepped()
    assert store.view("b").float().tolist() == [[5, 6, 7]] * 2
    store.activate(1)
    assert store.view("b").shape == (1, 3)
    assert store.view("b", dtype=torch.float32).dtype == torch.float32
    assert store.view("head", dtype=torch.float32).tolist() == [[7, 8]]


def test_a_row_is_one_client_over_the_same_memory() -> None:
    store = Store(PARAMS, ("lora",), clients=2)
    row = store.row(1)
    row.view("b").add_(1)
    grad = row.grad_view("a")
    assert grad is not None
    grad.add_(2)
    assert row.clients == 1
    assert store.view("b").tolist() == [[4, 5, 6], [5, 6, 7]]
    assert store.grad[:, 0].tolist() == [0, 2]


def test_some_rows_begin_with_values_of_their_own() -> None:
    store = Store(PARAMS, ("*",), clients=2)
    head = LAYOUT.select(("head",))
    store.begin([None, Params(head, np.array([-1, -2], dtype=np.float32))])
    assert store.values.tolist() == [list(range(9)), [0, 1, 2, 3, 4, 5, 6, -1, -2]]
    store.values[1] += 1
    assert store.deltas().tolist() == [[0] * 9, [1] * 9]  # against where each began
    assert store.row(1).deltas().tolist() == [[1] * 9]


def test_values_of_what_does_not_train_are_an_error() -> None:
    store = Store(PARAMS, ("lora",), clients=1)
    head = LAYOUT.select(("head",))
    with pytest.raises(LayoutError, match="tensor 'head': expected no such tensor"):
        store.begin([Params(head, np.zeros(2, dtype=np.float32))])
