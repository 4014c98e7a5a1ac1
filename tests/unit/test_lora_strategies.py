"""Methods of federated LoRA: what they have in common, and what they refuse."""

import numpy as np
import pytest
from lora_rounds import (
    EXAMPLES,
    MIXED,
    ROOM,
    WHOLE,
    applied,
    head,
    layout_of,
    locals_of,
    start,
    strategy,
    updates_of,
)

from fedloom.core.component import Option
from fedloom.core.errors import ConfigError
from fedloom.strategies.compose import Composed
from fedloom.strategies.conformance import check_strategy
from fedloom.strategies.lora.exact import FedEx
from fedloom.strategies.lora.rule import PairRule
from fedloom.strategies.optimizers import Adam, Momentum, Sgd
from fedloom.strategies.plan import Constant

SETTING = ("fedex-lora", "flora", "flexlora", "hetlora", "lora-fair")
NEEDS_SIDE = ("fedex-lora", "flora")


@pytest.mark.parametrize("name", SETTING)
def test_they_conform_with_pairs_of_any_rank(name: str) -> None:
    dealt: dict[str, Option] = {"ranks": ((1, 0.5), (3, 0.5))}
    options = {} if name == "lora-fair" else dealt
    check_strategy(strategy(name, **options), layout_of(side=2 if name in NEEDS_SIDE else 0))


@pytest.mark.parametrize("name", ["fedit", "ffa-lora", "rolora"])
def test_those_that_average_conform_with_pairs(name: str) -> None:
    check_strategy(strategy(name), layout_of())


@pytest.mark.parametrize("name", SETTING)
def test_a_head_is_averaged_by_examples(name: str) -> None:
    params = start(ROOM)
    local = locals_of(params, WHOLE)
    after = applied(strategy(name), params, updates_of(params, local, WHOLE))[0].params
    mean = sum(n / sum(EXAMPLES) * head(p) for n, p in zip(EXAMPLES, local, strict=True))
    np.testing.assert_allclose(head(after), mean, atol=1e-6)


@pytest.mark.parametrize("name", SETTING)
def test_the_order_of_arrival_changes_no_bit(name: str) -> None:
    params = start(2)
    local = locals_of(params, MIXED)
    updates = updates_of(params, local, MIXED)
    found = {
        applied(strategy(name), params, order)[0].params.vector.tobytes()
        for order in (updates, updates[::-1], updates[2:] + updates[:2])
    }
    assert len(found) == 1


@pytest.mark.parametrize("name", NEEDS_SIDE)
def test_an_adapter_without_a_side_car_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: the adapter has no side-car .*adapter.side"):
        strategy(name).init(start())


@pytest.mark.parametrize("optimizer", [Sgd(0.5), Momentum(), Adam()])
def test_what_the_model_is_to_be_takes_a_whole_step(optimizer: Sgd | Momentum | Adam) -> None:
    with pytest.raises(ConfigError, match=r"fedex-lora says what the model is to be: only SGD"):
        Composed(Constant(), PairRule(FedEx()), optimizer)
    assert Composed(Constant(), PairRule(FedEx()), Sgd(1.0))


@pytest.mark.parametrize("keeps", [0.0, -1.0, float("inf")])
def test_options_are_checked(keeps: float) -> None:
    with pytest.raises(ConfigError, match=r"keeps = .*above 0 and finite"):
        strategy("lora-fair", keeps=keeps)
