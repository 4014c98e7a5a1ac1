"""Methods for several ranks by their mathematics, and what released code got wrong in them."""

import numpy as np
import pytest
from lora_rounds import (
    MIXED,
    MODULES,
    RANK,
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

from fedloom.core.types import ClientUpdate

SETTING = ("fedex-lora", "flora", "flexlora", "hetlora", "lora-fair")
NEEDS_SIDE = ("fedex-lora", "flora")


@pytest.mark.parametrize("ranks", [WHOLE, MIXED])
def test_flexlora_is_the_truncated_dense_decomposition(ranks: tuple[int | None, ...]) -> None:
    params = start()
    local = locals_of(params, ranks)
    state, metrics = applied(strategy("flexlora"), params, updates_of(params, local, ranks))
    lost = whole = 0.0
    for module in MODULES:
        u, s, vt = np.linalg.svd(ideal(local, module))
        best = u[:, :RANK] * s[:RANK] @ vt[:RANK]
        np.testing.assert_allclose(product(state.params, module), best, atol=1e-5)
        a = tensors(state.params)[f"{module}.lora_A.weight"]
        b = tensors(state.params)[f"{module}.lora_B.weight"]
        # All singular values in B, as released, would leave A with rows of length 1.
        np.testing.assert_allclose(np.square(a).sum(1), s[:RANK], rtol=1e-5)
        np.testing.assert_allclose(np.square(b).sum(0), s[:RANK], rtol=1e-5)
        lost, whole = lost + (s[RANK:] ** 2).sum(), whole + (s**2).sum()
    assert metrics["rank_lost"] == pytest.approx(np.sqrt(lost / whole), rel=1e-6)


# Two clients of rank 1 and 3, one example each: the first slot is the mean of both, the others are
# the second client's alone, not half of it.
def test_slots_are_weighed_among_those_that_have_them() -> None:
    params = start()
    ranks = (1, None)
    local = locals_of(params, ranks)
    updates = [
        ClientUpdate(u.client, u.round, 1, delta=u.delta) for u in updates_of(params, local, ranks)
    ]
    after = applied(strategy("flexlora", slots=True), params, updates)[0].params
    for module in MODULES:
        pairs = [
            (tensors(p)[f"{module}.lora_B.weight"], tensors(p)[f"{module}.lora_A.weight"])
            for p in local
        ]
        (b0, a0), (b1, a1) = pairs
        want = (b0[:, :1] @ a0[:1] + b1[:, :1] @ a1[:1]) / 2 + b1[:, 1:] @ a1[1:]
        u, s, vt = np.linalg.svd(want)
        np.testing.assert_allclose(
            product(after, module), u[:, :RANK] * s[:RANK] @ vt[:RANK], atol=1e-5
        )


# FlexLoRA's branch weighs by examples; the paper by the norms of the products.
def test_hetlora_weighs_by_the_norms_of_the_products() -> None:
    params = start()
    local = locals_of(params, MIXED)
    after = tensors(
        applied(strategy("hetlora"), params, updates_of(params, local, MIXED))[0].params
    )
    for module in MODULES:
        norms = np.array([np.linalg.norm(product(p, module)) for p in local])
        for factor in ("lora_A.weight", "lora_B.weight"):
            each = [tensors(p)[f"{module}.{factor}"] for p in local]  # zero where there is no room
            want = sum(w * t for w, t in zip(norms / norms.sum(), each, strict=True))
            np.testing.assert_allclose(after[f"{module}.{factor}"], want, atol=1e-5)


def test_lora_fair_comes_nearer_than_the_means_with_the_same_a() -> None:
    params = start()
    local = locals_of(params, WHOLE)
    updates = updates_of(params, local, WHOLE)
    fair = applied(strategy("lora-fair", keeps=1e-6), params, updates)[0].params
    plain = applied(strategy("fedit"), params, updates)[0].params
    for module in MODULES:
        name = f"{module}.lora_A.weight"
        np.testing.assert_allclose(tensors(fair)[name], tensors(plain)[name], atol=1e-6)
        a, want = tensors(fair)[name], ideal(local, module)
        # Nearly without a cost it is the least-squares solution.
        best = want @ a.T @ np.linalg.inv(a @ a.T) @ a
        np.testing.assert_allclose(product(fair, module), best, atol=1e-3)
    assert error(fair, local) < error(plain, local)
    dear = applied(strategy("lora-fair", keeps=1e9), params, updates)[0].params
    np.testing.assert_allclose(dear.vector, plain.vector, atol=1e-5)
