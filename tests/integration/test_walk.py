"""Many local steps along directions: what is sent says where clients are; guides; work refused."""

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, cohort
from numpy.typing import NDArray
from walks import SEVERAL, directions_of, prepared, steps_of

from fedloom.core.errors import ConfigError
from fedloom.core.types import Delta, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.forward_gradient import ForwardGradient
from fedloom.tuning.learning import Learner
from fedloom.tuning.store import Store


class Recorder:
    """A session that keeps the stores it makes, the clients' own first."""

    def __init__(self, inner: Session) -> None:
        self._inner, self.stores = inner, list[Store]()
        self.losses, self.tokens = inner.losses, inner.tokens
        self.flops, self.memory, self.over = inner.flops, inner.memory, inner.over

    def store(self, params: Params, clients: int) -> Store:
        self.stores.append(self._inner.store(params, clients))
        return self.stores[-1]


@pytest.mark.parametrize(
    "learner",
    [
        FiniteDifference(2, scheme="pool", pool=64),  # FedKSeed's steps
        FiniteDifference(3, scheme="shared"),  # DeComFL's
    ],
    ids=["pool", "shared"],
)
def test_the_mean_of_clients_is_the_start_and_the_sum_of_their_scalars(
    model_folder: Folders, ragged: Ragged, learner: Learner
) -> None:
    model, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    recorder, work = Recorder(session), LocalWork(steps=6, batch_size=2, lr=0.02)
    results = learner.train(recorder, params, work, cohort())
    mean = recorder.stores[0].values.double().mean(0).numpy()
    total = sum(steps_of(r).scalars.astype(np.int64) for r in results)
    z = directions_of(results[0]).astype(np.float64)
    want = params.vector + steps_of(results[0]).coefficient / len(results) * (total @ z)
    np.testing.assert_allclose(mean, want, rtol=0, atol=2e-7)
    assert np.abs(mean - params.vector).max() > 1e-4
    assert steps_of(results[0]).layout == model.layout


def guide_for(size: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=size).astype(np.float32)


@pytest.mark.parametrize(
    "learner",
    [
        ForwardGradient(3, guided=True, largest=8),
        FiniteDifference(2, "central", guided=True, scheme="shared"),
        ForwardGradient(1, guided=True, per_example=True),
    ],
)
def test_a_guides_scalar_is_the_last(
    model_folder: Folders, ragged: Ragged, learner: FiniteDifference | ForwardGradient
) -> None:
    _, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    guide = guide_for(params.layout.size)
    unit = (guide.astype(np.float64) / np.linalg.norm(guide.astype(np.float64))).astype(np.float32)
    recorder = Recorder(session)
    (result,) = learner.train(recorder, params, SEVERAL, cohort()[:1], {"guide": guide})
    steps = steps_of(result)
    plain = type(learner)(learner.directions, per_example=learner.per_example)
    (other,) = plain.train(session, params, SEVERAL, cohort()[:1])
    assert len(steps.scalars) == len(steps_of(other).scalars) + 1
    z = directions_of(result)[:-1].astype(np.float64)
    moved = steps.scalars[:-1] @ z + steps.scalars[-1] * unit.astype(np.float64)
    own = recorder.stores[0].values[0].numpy()
    np.testing.assert_allclose(own, params.vector + steps.coefficient * moved, rtol=0, atol=2e-7)


def test_a_guide_is_followed_as_far_as_the_gradient_goes(
    model_folder: Folders, ragged: Ragged
) -> None:
    _, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    own, rows = cohort()[0], [np.arange(4)]
    store = session.store(params, 1)
    session.losses(store, rows).loss.sum().backward()
    gradient = store.grad[0].double().numpy()
    guide = (gradient + np.linalg.norm(gradient) / len(gradient) ** 0.5).astype(np.float32)
    unit = guide / np.linalg.norm(guide)
    work = LocalWork(steps=1, batch_size=4, lr=1.0)
    one = type(own)(own.client, rows[0], 1, 0)
    for learner, error in (
        (ForwardGradient(4, guided=True, send="tensors"), 1e-4),
        (FiniteDifference(4, "central", guided=True, send="tensors"), 0.03),
    ):
        (found,) = learner.train(session, params, work, [one], {"guide": guide})
        assert -found.delta @ unit == pytest.approx(gradient @ unit, rel=error)
    (sent,) = ForwardGradient(4, guided=True).train(session, params, work, [one], {"guide": guide})
    steps = steps_of(sent)
    z = directions_of(sent)[:-1].astype(np.float64)
    moved = steps.coefficient * (steps.scalars[:-1] @ z + steps.scalars[-1] * unit)
    # One scalar stands for 1/256, and directions of length sqrt(d) = 50 lie along the guide by 1.
    assert -moved @ unit == pytest.approx(gradient @ unit, abs=0.01)


def test_without_a_guide_nothing_is_guided(model_folder: Folders, ragged: Ragged) -> None:
    _, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    (one,) = FiniteDifference(2, guided=True).train(session, params, SEVERAL, cohort()[:1])
    (other,) = FiniteDifference(2).train(session, params, SEVERAL, cohort()[:1])
    assert np.array_equal(steps_of(one).scalars, steps_of(other).scalars)


def test_clients_of_both_learners_can_share_a_round(model_folder: Folders, ragged: Ragged) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, "fused")
    exact = ForwardGradient(2).train(session, params, SEVERAL, cohort())
    near = FiniteDifference(2, "central").train(session, params, SEVERAL, cohort())
    for one, other in zip(exact, near, strict=True):
        a, b = steps_of(one), steps_of(other)
        assert (a.layout, a.coefficient, a.directions, a.origin) == (
            b.layout,
            b.coefficient,
            b.directions,
            b.origin,
        )
        assert Delta(one.layout, one.delta, a).whole == Delta(other.layout, other.delta, b).whole


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (LocalWork(optimizer="adamw"), "local.optimizer = 'adamw': sgd; or learner option send"),
        (LocalWork(momentum=0.9), "local.momentum = 0.9: 0: scalars cannot say it"),
        (LocalWork(clip_norm=1.0), "local.clip_norm"),
        (LocalWork(prox_mu=0.1), "local.prox_mu"),
    ],
)
def test_what_scalars_cannot_say(
    model_folder: Folders, ragged: Ragged, work: LocalWork, message: str
) -> None:
    _, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    with pytest.raises(ConfigError, match=message):
        FiniteDifference(2).train(session, params, work, cohort())


def test_something_must_be_left_to_move(model_folder: Folders, ragged: Ragged) -> None:
    model, params, _ = prepared(CASES["bert"], model_folder, ragged, "fused")
    session = model.session(params, ("head",), CASES["bert"].examples(ragged))
    with pytest.raises(ConfigError, match="every tensor that trains is exact"):
        FiniteDifference(2).train(session, params, SEVERAL, cohort())
