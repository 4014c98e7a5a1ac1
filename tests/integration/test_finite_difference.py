"""Slopes from losses alone beside those of autograd, chunks beside clients alone, and replay."""

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort
from walks import (
    ONE,
    SEVERAL,
    apart,
    directions_of,
    part_of,
    prepared,
    slopes_of,
    steps_of,
    true_slopes,
    watched,
)

from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import Delta, LocalWork
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.forward_gradient import ForwardGradient
from fedloom.tuning.learning import Learner

MODELS = ("bert-mean", "llama", "gpt2", "qwen2-lm")
ENGINES = ("fused", "transformers")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_slopes_are_those_of_autograd(
    model_folder: Folders, ragged: Ragged, name: str, engine: str
) -> None:
    model, params, session = prepared(CASES[name], model_folder, ragged, engine)
    central = FiniteDifference(10, "central", largest=8, exact=("head",))
    found = central.train(session, params, ONE, cohort())
    sided = FiniteDifference(10, largest=8).train(session, params, ONE, cohort())
    for result, other, gradient in zip(
        found, sided, true_slopes(session, params, ONE), strict=True
    ):
        moved = part_of(model.layout, steps_of(result).layout, gradient)
        want = directions_of(result).astype(np.float64) @ moved
        size = float(np.linalg.norm(want))
        slopes = slopes_of(result, lr=ONE.lr, per_step=10)
        assert np.linalg.norm(slopes - want) < 0.02 * size
        near = slopes_of(other, lr=ONE.lr, per_step=10)
        assert np.linalg.norm(near - want) < 0.15 * size


@pytest.mark.parametrize(
    "learner",
    [
        FiniteDifference(5),
        FiniteDifference(3, "central", family="gaussian"),
        FiniteDifference(2, per_example=True),
        FiniteDifference(9, scheme="pool", pool=12),
        FiniteDifference(4, scheme="shared", send="tensors"),
        ForwardGradient(2),
        ForwardGradient(1, per_example=True),
    ],
    ids=["one-sided", "central", "per-example", "pool", "tensors", "jvp", "jvp-per-example"],
)
@pytest.mark.parametrize(
    ("name", "engine"), [("bert-mean", "fused"), ("llama", "transformers"), ("gpt2-lm", "fused")]
)
def test_a_chunk_gives_each_client_what_it_has_alone(
    model_folder: Folders, ragged: Ragged, name: str, engine: str, learner: Learner
) -> None:
    _, params, session = prepared(CASES[name], model_folder, ragged, engine)
    together = learner.train(session, params, SEVERAL, cohort())
    for one, alone in zip(together, apart(learner, session, params, SEVERAL), strict=True):
        assert (one.client, one.num_examples) == (alone.client, alone.num_examples)
        assert one.metrics == pytest.approx(alone.metrics, rel=1e-4)
        np.testing.assert_allclose(one.delta, alone.delta, rtol=2e-3, atol=2e-5)
        if one.steps is not None:
            scalars, others = one.steps.scalars, steps_of(alone).scalars
            # Noise of float additions, about 1e-7, over h = 0.003, changes a scalar by a step of
            # 1/256 now and then, and with it all that follow.
            assert np.linalg.norm(scalars - others) <= 0.005 * np.linalg.norm(others)
            assert one.steps.coefficient == steps_of(alone).coefficient
            assert one.steps.origin == steps_of(alone).origin


@pytest.mark.parametrize(
    "learner",
    [
        FiniteDifference(6, "central"),
        FiniteDifference(3, scheme="pool", pool=5, largest=1.0, bits=8),
        FiniteDifference(3, bits=1, largest=0.1),
        FiniteDifference(2, family="gaussian", per_example=True),
        ForwardGradient(3, scheme="candidates", pool=9),
    ],
    ids=["distinct", "clipped-pool", "signs", "gaussian", "candidates"],
)
@pytest.mark.parametrize("name", ["bert-mean", "gpt2-lm"])
def test_the_server_makes_the_same_model_to_the_bit(
    model_folder: Folders, ragged: Ragged, name: str, learner: Learner
) -> None:
    model, params, session = prepared(CASES[name], model_folder, ragged, "fused")
    session, standing = watched(session)
    (result,) = learner.train(session, params, SEVERAL, cohort()[:1])
    change = Delta(result.layout, result.delta, result.steps).dense()
    vector = params.vector.copy()
    for here, there in model.layout.spans(change.layout):
        vector[here] += change.vector[there]
    assert np.array_equal(vector, standing()[0].numpy())
    assert not np.array_equal(vector, params.vector)


def test_the_heads_step_is_that_of_backprop(model_folder: Folders, ragged: Ragged) -> None:
    for name, engine in (("bert-mean", "fused"), ("bert", "transformers"), ("llama", "fused")):
        model, params, session = prepared(CASES[name], model_folder, ragged, engine)
        whole = Backprop().train(session, params, ONE, cohort())
        found = FiniteDifference(2).train(session, params, ONE, cohort())
        for result, want in zip(found, whole, strict=True):
            assert {spec.block for spec in result.layout} == {"head"}
            wanted = model.layout.gather(want.delta, result.layout)
            np.testing.assert_allclose(result.delta, wanted, rtol=1e-4, atol=1e-7)


def test_no_more_than_the_head_keeps_a_graph(model_folder: Folders, ragged: Ragged) -> None:
    # Of the trunk nothing is kept: its gradient stays zero.
    model, params, session = prepared(CASES["bert"], model_folder, ragged, "transformers")
    store = session.store(params, 1)
    store.trunk = False
    session.losses(store, [np.arange(4)]).loss.sum().backward()
    head = model.layout.select(("head",))
    moved = np.flatnonzero(store.grad[0].numpy())
    places = part_of(model.layout, head, np.arange(model.layout.size, dtype=np.float64))
    assert set(moved) <= set(places.astype(int))
    assert len(moved)


@pytest.mark.parametrize("name", ["bert-mean", "llama", "gpt2-lm", "vit"])
def test_a_recalled_prefix_changes_no_loss(
    model_folder: Folders, ragged: Ragged, name: str
) -> None:
    case = CASES[name]
    model = case.build(model_folder, Component("lora", {"layers": (-1,)}))
    params, examples = model.initial(3), case.examples(ragged)
    session = model.session(params, ("*",), examples)
    rows = [np.array([3, 1, 7]), np.array([2]), np.array([7, 7])]
    near = session.over(np.concatenate(rows))
    assert near is not session
    store = session.store(params, 3)
    with torch.no_grad():
        found, want = near.losses(near.store(params, 3), rows), session.losses(store, rows)
    torch.testing.assert_close(found.each, want.each, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.target, want.target)


def test_active_dropout_is_refused(model_folder: Folders, ragged: Ragged) -> None:
    model, params, session = prepared(CASES["bert"], model_folder, ragged, "transformers")
    model.module.train()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"dropout is active.*evaluation mode"):
        FiniteDifference(2).train(session, params, ONE, cohort())


@pytest.mark.parametrize("h", [1e-12, 1e-9])
def test_a_step_that_moves_nothing_is_refused(
    model_folder: Folders, ragged: Ragged, h: float
) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, "fused")
    with pytest.raises(ConfigError, match=r"h = 1e-\d+: at least .*in float32"):
        FiniteDifference(2, h=h).train(session, params, ONE, cohort())


@pytest.mark.parametrize("name", ["bert-mean", "gpt2-lm"])
def test_a_client_that_diverges_says_so(model_folder: Folders, ragged: Ragged, name: str) -> None:
    _, params, session = prepared(CASES[name], model_folder, ragged, "fused")
    for result in FiniteDifference(2).train(
        session, params, LocalWork(steps=3, batch_size=4, lr=1e30, head_lr=0.1), cohort()
    ):
        assert result.steps is None
        assert np.isnan(result.delta).all()
        assert result.layout.size == len(result.delta) > 0
