"""Federated LoRA for any cohort: the covariance identity, exactness, and what a rank cuts off."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.lora.algebra import Factors, Matrix, recompress
from fedloom.strategies.lora.exact import fedex_lora, flora
from fedloom.strategies.lora.mixed import flexlora

D_OUT, D_IN = 5, 4
cohorts = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 1000)), min_size=1, max_size=5
)  # rank and examples of each


def model(seed: int, side: int) -> Params:
    lora, own = frozenset({"lora"}), frozenset({"side"})
    specs = (
        TensorSpec("m.lora_A.weight", (3, D_IN), tags=lora | {"A"}),
        TensorSpec("m.lora_B.weight", (D_OUT, 3), tags=lora | {"B"}),
        TensorSpec("m.side_A", (side, D_IN), tags=own),
        TensorSpec("m.side_B", (D_OUT, side), tags=own),
    )
    layout = Layout(specs)
    vector = np.random.default_rng(seed).normal(size=layout.size)
    return Params(layout, vector.astype(np.float32))


def played(
    params: Params, cohort: list[tuple[int, int]], seed: int
) -> tuple[Matrix, list[ClientUpdate]]:
    """The mean of the clients' products, and what they send."""
    rng, whole = np.random.default_rng(seed), sum(n for _, n in cohort)
    now = params.layout.unflatten(params.vector)
    wanted, updates = np.zeros((D_OUT, D_IN)), []
    for i, (rank, examples) in enumerate(cohort):
        da = rng.normal(size=(rank, D_IN)).astype(np.float32)
        db = rng.normal(size=(D_OUT, rank)).astype(np.float32)
        a = now["m.lora_A.weight"][:rank].astype(np.float64) + da
        b = now["m.lora_B.weight"][:, :rank].astype(np.float64) + db
        wanted += examples / whole * (b @ a)
        specs = (TensorSpec("m.lora_A.weight", da.shape), TensorSpec("m.lora_B.weight", db.shape))
        vector = np.concatenate((da.reshape(-1), db.reshape(-1)))
        delta = Delta(Layout(specs), vector)
        updates.append(ClientUpdate(f"c{i}", 1, examples, delta=delta))
    return wanted, updates


def products(params: Params) -> tuple[Matrix, Matrix]:
    now = {n: t.astype(np.float64) for n, t in params.layout.unflatten(params.vector).items()}
    return now["m.lora_B.weight"] @ now["m.lora_A.weight"], now["m.side_B"] @ now["m.side_A"]


@settings(max_examples=30, deadline=None)
@given(cohorts, st.integers(0, 9))
def test_exact_methods_are_exact_for_any_ranks_and_weights(
    cohort: list[tuple[int, int]], seed: int
) -> None:
    params = model(seed, side=4)
    wanted, updates = played(params, cohort, seed + 1)
    for strategy in (fedex_lora(), flora()):
        total = None
        for update in updates:
            total = strategy.accumulate(total, update)
        after = strategy.apply(strategy.init(params), total)[0].params
        pair, side = products(after)
        before = products(params)[1]
        error = np.linalg.norm(pair + side - before - wanted)
        assert error < 1e-6 * (np.linalg.norm(wanted) + np.linalg.norm(before))


@settings(max_examples=30, deadline=None)
@given(cohorts, st.integers(0, 9))
def test_no_pair_is_nearer_to_the_mean_than_flexlora_s(
    cohort: list[tuple[int, int]], seed: int
) -> None:
    params, strategy = model(seed, side=1), flexlora()
    wanted, updates = played(params, cohort, seed + 1)
    total = None
    for update in reversed(updates):
        total = strategy.accumulate(total, update)
    after = strategy.apply(strategy.init(params), total)[0].params
    beyond = np.sqrt((np.linalg.svd(wanted)[1][3:] ** 2).sum())
    error = np.linalg.norm(products(after)[0] - wanted)
    assert abs(error - beyond) < 1e-5 * np.linalg.norm(wanted)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.integers(0, 99))
def test_the_mean_of_products_less_the_product_of_means_is_the_covariance(
    weights: list[float], seed: int
) -> None:
    rng, shares = np.random.default_rng(seed), np.array(weights) / sum(weights)
    b = rng.normal(size=(len(shares), D_OUT, 2))
    a = rng.normal(size=(len(shares), 2, D_IN))
    mean_b, mean_a = (np.einsum("k,kij->ij", shares, each) for each in (b, a))
    covariance = np.einsum("k,kor,krd->od", shares, b - mean_b, a - mean_a)
    mean = np.einsum("k,kor,krd->od", shares, b, a)
    np.testing.assert_allclose(mean - mean_b @ mean_a, covariance, atol=1e-10)
    # It has rank (K - 1) r: a side-car of that rank holds it.
    terms = [Factors(p * (x - mean_b), y - mean_a) for p, x, y in zip(shares, b, a, strict=True)]
    found = recompress(terms, 2 * (len(shares) - 1) or 1)
    assert found.lost < 1e-12 * (1 + found.kept)
