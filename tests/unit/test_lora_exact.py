"""Exact methods by their mathematics, and what released code got wrong in them."""

import numpy as np
import pytest
from lora_rounds import (
    EXAMPLES,
    MIXED,
    MODULES,
    RANK,
    ROOM,
    WHOLE,
    applied,
    error,
    ideal,
    locals_of,
    product,
    start,
    strategy,
    tensors,
    updates_of,
)

from fedloom.core.layout import Layout
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.lora.algebra import Matrix

SETTING = ("fedex-lora", "flora", "flexlora", "hetlora", "lora-fair")
NEEDS_SIDE = ("fedex-lora", "flora")


@pytest.mark.parametrize("ranks", [WHOLE, MIXED])
@pytest.mark.parametrize("name", NEEDS_SIDE)
def test_exact_methods_keep_the_mean_of_the_products(
    name: str, ranks: tuple[int | None, ...]
) -> None:
    params = start(ROOM)
    for seed in (1, 2):  # the second round begins with something in the side-car
        local = locals_of(params, ranks, seed)
        state, metrics = applied(strategy(name), params, updates_of(params, local, ranks))
        assert error(state.params, local) < 1e-6
        assert metrics["side_lost"] < 1e-9
        params = state.params
    for module in MODULES:
        assert np.linalg.matrix_rank(tensors(params)[f"{module}.side_B"]) > RANK


def test_fedit_misses_the_mean_of_the_products_by_the_covariance() -> None:
    params = start()
    local = locals_of(params, WHOLE)
    after = applied(strategy("fedit"), params, updates_of(params, local, WHOLE))[0].params
    shares = np.array(EXAMPLES) / sum(EXAMPLES)
    for module in MODULES:
        a = np.array([tensors(p)[f"{module}.lora_A.weight"] for p in local])
        b = np.array([tensors(p)[f"{module}.lora_B.weight"] for p in local])
        mean_a, mean_b = (np.einsum("k,kij->ij", shares, each) for each in (a, b))
        covariance = np.einsum("k,kor,krd->od", shares, b - mean_b, a - mean_a)
        missed = ideal(local, module) - product(after, module)
        np.testing.assert_allclose(missed, covariance, atol=1e-6)
        # In float64 it is an identity.
        np.testing.assert_allclose(ideal(local, module) - mean_b @ mean_a, covariance, atol=1e-13)


# The baseline of FLoRA's repository has a misspelt variable: it loads p_0 times the first client.
def test_fedit_is_the_mean_of_all_clients() -> None:
    params = start()
    local = locals_of(params, WHOLE)
    after = applied(strategy("fedit"), params, updates_of(params, local, WHOLE))[0].params
    mean = sum(n / sum(EXAMPLES) * p.vector for n, p in zip(EXAMPLES, local, strict=True))
    np.testing.assert_allclose(after.vector, mean, atol=1e-6)
    assert np.abs(after.vector - EXAMPLES[0] / sum(EXAMPLES) * local[0].vector).max() > 0.1


# FedEx-LoRA's repository adds the transposed residual to maps of the usual layout; modules that are
# not square would fail, those that are would be worse off than without.
def test_fedex_has_the_residual_the_right_way_round() -> None:
    params = start(ROOM)
    local = locals_of(params, WHOLE)
    after = tensors(
        applied(strategy("fedex-lora"), params, updates_of(params, local, WHOLE))[0].params
    )
    for module, (d_out, d_in) in MODULES.items():
        residual = after[f"{module}.side_B"] @ after[f"{module}.side_A"]
        assert residual.shape == (d_out, d_in)
        mean = after[f"{module}.lora_B.weight"] @ after[f"{module}.lora_A.weight"]
        np.testing.assert_allclose(mean + residual, ideal(local, module), atol=1e-5)


# p_k belongs to one factor of a stacked product: on both it would count squared.
def test_flora_weighs_a_client_once() -> None:
    params = start(ROOM, trained=False)
    local = locals_of(params, WHOLE)
    after = tensors(applied(strategy("flora"), params, updates_of(params, local, WHOLE))[0].params)
    for module in MODULES:
        side = after[f"{module}.side_B"] @ after[f"{module}.side_A"]
        np.testing.assert_allclose(side, ideal(local, module), atol=1e-5)
        twice = sum(
            (n / sum(EXAMPLES)) ** 2 * product(p, module)
            for n, p in zip(EXAMPLES, local, strict=True)
        )
        assert np.linalg.norm(side - twice) > 0.1 * np.linalg.norm(side)


def test_flora_begins_anew_with_other_numbers_each_round() -> None:
    params = start(ROOM)
    seen: list[Matrix] = []
    for seed in (1, 2):
        local = locals_of(params, WHOLE, seed)
        params = applied(strategy("flora"), params, updates_of(params, local, WHOLE))[0].params
        now = tensors(params)
        for module, (_, d_in) in MODULES.items():
            a = now[f"{module}.lora_A.weight"]
            assert not now[f"{module}.lora_B.weight"].any()
            assert 0.5 / np.sqrt(d_in) < np.abs(a).max() < 1 / np.sqrt(d_in) + 1e-6
            # Equal numbers differ in the last bit, as they are reached from where the pair was.
            assert all(np.abs(a - other).max() > 0.01 for other in seen)
            seen.append(a)
    # What clients sent has no say in it: the numbers come from those before, and so of the seed.
    others = locals_of(start(ROOM), WHOLE, seed=5)
    again = applied(strategy("flora"), start(ROOM), updates_of(start(ROOM), others, WHOLE))[0]
    for i, module in enumerate(MODULES):
        np.testing.assert_allclose(
            tensors(again.params)[f"{module}.lora_A.weight"],
            seen[i],
            atol=1e-6,
        )


# With a rank each, clients of FLoRA's repository scale by alpha / r_k, and the stack is taken as if
# all scaled alike: here all do.
def test_a_stack_of_several_ranks_has_one_scale() -> None:
    params = start(ROOM, trained=False)
    local = locals_of(params, MIXED)
    after = applied(strategy("flora"), params, updates_of(params, local, MIXED))[0].params
    assert error(after, local) < 1e-6
    scales = [RANK / (rank or RANK) for rank in MIXED]
    other = [
        Params(p.layout, np.where(_of(p.layout, "B"), s * p.vector, p.vector).astype(np.float32))
        for s, p in zip(scales, local, strict=True)
    ]
    assert error(after, other) > 0.1


def _of(layout: Layout, tag: str) -> np.ndarray:
    return np.concatenate([np.full(spec.size, tag in spec.tags) for spec in layout])


def test_a_small_side_car_keeps_the_best_part_and_says_what_it_lost() -> None:
    params = start(2)
    local = locals_of(params, WHOLE)
    state, metrics = applied(strategy("fedex-lora"), params, updates_of(params, local, WHOLE))
    after, lost, whole = tensors(state.params), 0.0, 0.0
    for module in MODULES:
        mean = after[f"{module}.lora_B.weight"] @ after[f"{module}.lora_A.weight"]
        u, s, vt = np.linalg.svd(ideal(local, module) - mean)
        side = after[f"{module}.side_B"] @ after[f"{module}.side_A"]
        np.testing.assert_allclose(side, u[:, :2] * s[:2] @ vt[:2], atol=1e-5)
        lost, whole = lost + (s[2:] ** 2).sum(), whole + (s**2).sum()
    assert metrics["side_lost"] == pytest.approx(np.sqrt(lost / whole), rel=1e-4)
    assert 0.05 < metrics["side_lost"] < 1


# A factor that a client was not asked to train is as the model has it, not zero.
def test_a_factor_that_is_not_sent_is_as_it_was() -> None:
    params = start(ROOM)
    local = locals_of(params, WHOLE)
    updates = updates_of(params, local, WHOLE)
    first = updates[0]
    assert first.delta is not None
    b_only = first.delta.layout.select(("B", "head"))
    vector = first.delta.layout.gather(first.delta.vector, b_only)
    part = Delta(b_only, vector)
    updates[0] = ClientUpdate(first.client, 1, first.num_examples, delta=part)
    after = applied(strategy("fedex-lora"), params, updates)[0].params
    a_names = params.layout.select(("A",))
    local[0] = local[0].having(params.only(a_names))
    assert error(after, local) < 1e-6
