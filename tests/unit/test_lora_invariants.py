"""What every method of federated LoRA keeps: a cohort of one, and one that did nothing."""

import numpy as np
import pytest
from lora_rounds import (
    EXAMPLES,
    MIXED,
    MODULES,
    ROOM,
    WHOLE,
    applied,
    head,
    locals_of,
    product,
    start,
    strategy,
    tensors,
    updates_of,
)

from fedloom.core.types import Params

SETTING = ("fedex-lora", "flora", "flexlora", "hetlora", "lora-fair")
ALL = (*SETTING, "fedit", "ffa-lora", "rolora", "fedsa-lora")


def same_model(one: Params, other: Params) -> None:
    for module in MODULES:
        np.testing.assert_allclose(product(one, module), product(other, module), atol=2e-5)
    np.testing.assert_allclose(head(one), head(other), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_cohort_of_one_makes_its_model_the_global_one(name: str) -> None:
    params = start(ROOM)
    local = locals_of(params, (None,))
    after = applied(strategy(name), params, updates_of(params, local, (None,)))[0].params
    same_model(after, local[0])


# A mean over clients that did nothing is nothing, whatever becomes of the factors.
@pytest.mark.parametrize("name", ALL)
def test_clients_that_did_nothing_leave_the_model_as_it_is(name: str) -> None:
    params = start(ROOM)
    local = locals_of(params, WHOLE, spread=0.0)
    after = applied(strategy(name), params, updates_of(params, local, WHOLE))[0].params
    same_model(after, params)


# Where no product has a norm there are no shares of norms: examples weigh, and nothing is NaN.
@pytest.mark.parametrize("ranks", [WHOLE, MIXED])
def test_hetlora_weighs_products_of_zero_by_examples(ranks: tuple[int | None, ...]) -> None:
    params = start(trained=False)
    local = locals_of(params, ranks)
    for own in local:
        for module in MODULES:
            params.layout.view(own.vector, f"{module}.lora_B.weight")[...] = 0
    after = tensors(
        applied(strategy("hetlora"), params, updates_of(params, local, ranks))[0].params
    )
    for module in MODULES:
        name = f"{module}.lora_A.weight"
        shares = np.array(EXAMPLES) / sum(EXAMPLES)
        want = sum(p * tensors(own)[name] for p, own in zip(shares, local, strict=True))
        np.testing.assert_allclose(after[name], want, atol=1e-6)
        assert not after[f"{module}.lora_B.weight"].any()
