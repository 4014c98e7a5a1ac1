"""A part of an adapter's rank: where a client starts, and what it sends."""

import json

import numpy as np
from lora_rounds import MODULES, RANK, layout_of, start

from fedloom.core.config import build
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.ranks import cut_to, factor_pairs, largest_rank, limited, of_rank, widened
from fedloom.core.types import ClientTask, Delta, Params
from fedloom.server.live_round import order_of


def test_shapes_of_a_rank() -> None:
    layout = layout_of()
    assert of_rank(layout, None) is layout
    for name, (d_out, d_in) in MODULES.items():
        shapes = {spec.name: spec.shape for spec in of_rank(layout, 2)}
        assert shapes[f"{name}.lora_A.weight"] == (2, d_in)
        assert shapes[f"{name}.lora_B.weight"] == (d_out, 2)
        assert shapes["classifier.weight"] == (3, 4)
    assert of_rank(layout, RANK) == layout  # a pair of lower rank is as it is


def test_the_largest_rank_is_that_of_the_largest_pair() -> None:
    assert largest_rank(layout_of()) == RANK
    assert largest_rank(Layout((TensorSpec("head", (9,), tags=frozenset({"head"})),))) == 0
    # What the server has beside it is no rank of the clients'.
    assert largest_rank(layout_of(side=7)) == RANK


def test_what_lies_beyond_the_rank_is_zero_at_the_start() -> None:
    params = start(side=2)
    mine = limited(params, 1)
    assert limited(params, None) is params
    for spec in params.layout:
        whole, own = (p.layout.view(p.vector, spec.name) for p in (params, mine))
        if "A" in spec.tags:
            assert np.array_equal(own[:1], whole[:1])
            assert not own[1:].any()
        elif "B" in spec.tags:
            assert np.array_equal(own[:, :1], whole[:, :1])
            assert not own[:, 1:].any()
        else:  # the head, and the server's own
            assert np.array_equal(own, whole)
    assert (params.vector != mine.vector).any()


# A [3, 2] cut to one row, B [2, 3] to one column, in the flat order of the cut shapes.
def test_a_change_is_cut_to_the_first_rows_and_columns() -> None:
    lora = frozenset({"lora"})
    layout = Layout(
        (
            TensorSpec("m.lora_A.weight", (3, 2), tags=lora | {"A"}),
            TensorSpec("m.lora_B.weight", (2, 3), tags=lora | {"B"}),
            TensorSpec("head", (1,), tags=frozenset({"head"})),
        )
    )
    delta = Delta(layout, np.arange(13, dtype=np.float32))
    assert cut_to(delta, None) is delta
    assert cut_to(delta, 1).vector.tolist() == [0, 1, 6, 9, 12]
    assert cut_to(delta, 1).layout == of_rank(layout, 1)


def test_what_was_cut_is_the_limited_model_again() -> None:
    params = start()
    for rank in (1, 2, RANK):
        cut = cut_to(Delta(params.layout, params.vector), rank)
        found = widened(Params(cut.layout, cut.vector), params.layout)
        assert np.array_equal(found.vector, limited(params, rank).vector)


def test_pairs_are_of_factors_that_clients_have() -> None:
    found = factor_pairs(layout_of(side=2))
    wanted = [(f"{name}.lora_A.weight", f"{name}.lora_B.weight") for name in MODULES]
    assert [(a.name, b.name) for a, b in found] == wanted
    alone = Layout(tuple(spec for spec in layout_of() if "B" not in spec.tags))
    assert factor_pairs(alone) == []


# A device whose fedloom knows no ranks refuses the key: it must not see it where none is asked.
def test_an_order_names_a_rank_only_where_there_is_one() -> None:
    plain, ranked = ClientTask("a", 1, 0), ClientTask("a", 1, 0, rank=2)
    assert "rank" not in json.loads(order_of(plain, 0))["task"]
    for task in (plain, ranked):
        assert build(ClientTask, json.loads(order_of(task, 0))["task"]) == task
