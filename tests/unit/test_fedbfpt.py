from itertools import groupby

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, Cohort, Params, Selectors, State
from fedloom.strategies.fedbfpt import OneLayer, drawn, fedbfpt, halving

FULL, HEAD = frozenset({"full"}), frozenset({"head"})
DEPTH = 6
LAYERS = tuple(TensorSpec(f"encoder.{i}.weight", (2, 2), f"layer.{i}", FULL) for i in range(DEPTH))
HEADED = Layout((*LAYERS, TensorSpec("classifier.weight", (3, 2), "head", HEAD)))
CLIENTS = tuple(Client(f"c{i}", 4) for i in range(5))
TRAIN = Selectors(train=("full", "head"))


def state(layout: Layout = HEADED, done: int = 0) -> State:
    return State(Params(layout, np.zeros(layout.size, dtype=np.float32)), version=done)


def asked(planner: OneLayer, done: int, rounds: int, layout: Layout = HEADED) -> list[ClientTask]:
    cohort = Cohort(done + 11, CLIENTS, selectors=TRAIN, rounds=rounds)
    return list(planner.plan(state(layout, done), cohort).values())


@pytest.mark.parametrize(
    ("rounds", "want"),
    [
        (0, []),
        (1, [(0, 1)]),
        (5, [(0, 3), (1, 1), (2, 1)]),
        (8, [(0, 4), (1, 2), (2, 1), (3, 1)]),
        (20, [(0, 10), (1, 5), (2, 3), (3, 1), (4, 1)]),
    ],
)
def test_half_of_what_is_left_goes_to_each_next_layer(
    rounds: int, want: list[tuple[int, int]]
) -> None:
    found = halving(rounds)
    assert [(layer, len(list(run))) for layer, run in groupby(found)] == want
    assert len(found) == rounds


def test_a_client_runs_the_layers_so_far_and_deep_ones_in_order() -> None:
    found = [drawn(1, layers=6, depth=12, key=(0, r, "a")) for r in range(200)]
    assert all(blocks[:2] == (0, 1) and len(blocks) == 6 for blocks in found)
    deep = [blocks[2:] for blocks in found]
    assert all(list(d) == sorted(d) for d in deep)
    assert {i for d in deep for i in d} == set(range(2, 12))
    assert any(len(set(d)) < 4 for d in deep)  # with replacement
    # Each of the ten comes up in a tenth of 800 draws: 80, give or take four times sqrt(72).
    counts = np.bincount([i for d in deep for i in d])[2:]
    assert np.abs(counts - 80).max() < 4 * 72**0.5


def test_draws_differ_by_client_and_round_and_repeat() -> None:
    keys = [(0, 1, "a"), (0, 1, "b"), (0, 2, "a"), (1, 1, "a")]
    found = [drawn(0, layers=8, depth=40, key=key) for key in keys]
    assert len(set(found)) == len(keys)
    assert drawn(0, layers=8, depth=40, key=keys[0]) == found[0]


@pytest.mark.parametrize(("layer", "want"), [(3, (0, 1, 2, 3)), (5, (0, 1, 2, 3, 4, 5))])
def test_no_deep_layers_where_there_is_no_room_or_none(layer: int, want: tuple[int, ...]) -> None:
    assert drawn(layer, layers=3, depth=DEPTH, key=(0, 1, "a")) == want


def test_the_layer_of_the_round_and_the_head_train_and_travel() -> None:
    for done, layer in enumerate(halving(8)):
        for task in asked(OneLayer(layers=3), done, 8):
            assert task.selectors.sent(HEADED).names == (
                f"encoder.{layer}.weight",
                "classifier.weight",
            )
            assert task.blocks[: layer + 1] == tuple(range(layer + 1))
            assert len(task.blocks) == max(3, layer + 1)
    assert len({task.blocks for task in asked(OneLayer(layers=4), 0, 8)}) > 1


def test_after_the_schedule_the_last_layer_goes_on() -> None:
    assert asked(OneLayer(), 9, 5)[0].selectors.train == ("layer.2", "head")


def test_without_progress_the_first_layer_trains_throughout() -> None:
    assert asked(OneLayer(progressive=False), 4, 5)[0].selectors.train == ("layer.0", "head")


def test_layers_beyond_those_that_may_train() -> None:
    few = Layout((*LAYERS[:2], HEADED.specs[-1]))
    deep = {i for task in asked(OneLayer(layers=5, depth=DEPTH), 0, 3, few) for i in task.blocks}
    assert max(deep) > 1
    text = r"8 rounds come to layer.2; what may train: layer.0, layer.1"
    with pytest.raises(ConfigError, match=text):  # in the first round, not in the seventh
        asked(OneLayer(depth=DEPTH), 0, 8, few)


def test_a_language_model_has_no_head() -> None:
    bare = Layout(LAYERS)
    assert asked(OneLayer(), 0, 5, bare)[0].selectors.train == ("layer.0",)


def test_a_head_alone_has_no_layers() -> None:
    (task, *_) = asked(OneLayer(), 0, 5, Layout(HEADED.specs[-1:]))
    assert (task.blocks, task.selectors) == ((), TRAIN)


@pytest.mark.parametrize(("option", "value"), [("layers", 0), ("depth", -1), ("lr", 0.0)])
def test_bad_options(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        fedbfpt(**{option: value})  # type: ignore[arg-type]
