import numpy as np
import pytest

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, Cohort, Params, Selectors, State, Tier
from fedloom.strategies.spry import Split, dealt, spry, units_of

LORA = frozenset({"lora"})
HEAD = frozenset({"head"})
MODEL = Layout(
    (
        *(
            TensorSpec(f"layer.{n}.{m}.lora_{x}.weight", (1, 2), f"layer.{n}", LORA | {x})
            for n in range(2)
            for m in ("query", "value")
            for x in "AB"
        ),
        TensorSpec("classifier.weight", (3, 2), "head", HEAD),
        TensorSpec("classifier.bias", (3,), "head", HEAD),
        TensorSpec("classifier.dense.weight", (2,), "top", frozenset({"other"})),
    )
)
STATE = State(Params(MODEL, np.zeros(MODEL.size, dtype=np.float32)))
TRAIN = Selectors(train=("lora", "head"))
UNITS = 5  # four modules with A and B each, and the head's weight and bias


def tasks(clients: int, *, round: int = 1, tiers: tuple[Tier, ...] = ()) -> list[ClientTask]:
    tier = tiers[0].name if tiers else ""
    members = tuple(Client(f"c{i}", 1, tier if i == 0 else "") for i in range(clients))
    return list(Split().plan(STATE, Cohort(round, members, selectors=TRAIN, tiers=tiers)).values())


def names(task: ClientTask) -> tuple[str, ...]:
    return task.selectors.sent(MODEL).names


def test_a_and_b_of_a_module_belong_together() -> None:
    found = [unit.names for unit in units_of(MODEL.select(TRAIN.train))]
    assert len(found) == UNITS
    assert found[0] == ("layer.0.query.lora_A.weight", "layer.0.query.lora_B.weight")
    assert found[-1] == ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize("clients", [1, 2, 3, 5, 7, 23])
def test_every_tensor_has_an_owner_and_every_client_a_unit(clients: int) -> None:
    owned = [names(task) for task in tasks(clients)]
    assert {name for own in owned for name in own} == set(MODEL.select(TRAIN.train).names)
    assert all(owned)
    if clients <= UNITS:  # then each tensor has one owner
        assert sum(map(len, owned)) == len(MODEL.select(TRAIN.train).names)


def test_a_client_alone_trains_everything() -> None:
    (task,) = tasks(1)
    assert names(task) == MODEL.select(TRAIN.train).names


def test_owners_are_spread_evenly() -> None:
    hands = dealt(UNITS, 23)
    counts = [sum(unit in hand for hand in hands) for unit in range(UNITS)]
    assert sorted(counts) == [4, 4, 5, 5, 5]
    assert sorted(map(len, dealt(23, UNITS))) == [4, 4, 5, 5, 5]
    assert dealt(3, 0) == []


def test_the_units_of_a_client_change_with_the_round() -> None:
    assert len({names(tasks(5, round=number)[0]) for number in range(1, 20)}) == UNITS


def test_a_kind_of_device_with_a_part_of_its_own_keeps_it() -> None:
    small = Tier("small", train=("head",), learner=Component("backprop"))
    first, *others = tasks(4, tiers=(small,))
    assert names(first) == ("classifier.weight", "classifier.bias")
    owned = {name for task in others for name in names(task)}
    assert owned == set(MODEL.select(TRAIN.train).names)


def test_nobody_there() -> None:
    assert tasks(0) == []


def test_the_optimizer_is_yogi_or_none() -> None:
    assert type(spry().optimizer).__name__ == "Yogi"
    assert type(spry(optimizer="sgd", lr=1.0).optimizer).__name__ == "Sgd"
    with pytest.raises(ConfigError, match="optimizer = 'adam': yogi or sgd"):
        spry(optimizer="adam")
