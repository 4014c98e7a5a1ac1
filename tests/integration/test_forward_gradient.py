"""Forward-mode slopes beside autograd's and beside finite differences; models that have none."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from numpy.typing import NDArray
from walks import (
    ONE,
    SEVERAL,
    directions_of,
    measured,
    prepared,
    slopes_of,
    steps_of,
    true_slopes,
)

from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component, Option
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.forward_gradient import ForwardGradient, Tangents
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.store import Store


@pytest.mark.parametrize("engine", ["fused", "transformers"])
@pytest.mark.parametrize(
    ("name", "adapter"),
    [(name, "lora") for name in ("bert", "bert-mean", "llama", "gpt2", "qwen2-lm", "vit")]
    + [("llama", "ia3"), ("gpt2", "bitfit"), ("bert", "bitfit"), ("vit", "bottleneck")],
)
def test_slopes_are_those_of_autograd(
    model_folder: Folders, ragged: Ragged, name: str, engine: str, adapter: str
) -> None:
    case = CASES[name]
    model = case.build(model_folder, adapter, engine=engine)
    params = start(model)
    session = model.session(params, ("*",), case.examples(ragged))
    z = torch.randn(5, model.layout.size, generator=torch.Generator().manual_seed(0))
    gradients = np.stack(true_slopes(session, params, ONE))
    want = (gradients * z.double().numpy()).sum(1)
    found = measured(Tangents(), session, params, z)
    # Relative to the terms that a slope is the sum of.
    size = np.linalg.norm(gradients, axis=1)
    assert (np.abs(found - want) <= 1e-5 * size).all()


def test_every_examples_own_slopes_add_up(model_folder: Folders, ragged: Ragged) -> None:
    # f is the mean over b examples: g . z is the sum of the parts' slopes along the same z, so
    # with one example in a batch there is no difference, and with b the scalars are b times parts.
    model, params, session = prepared(CASES["gpt2-lm"], model_folder, ragged, "fused")
    for learner in (
        ForwardGradient(1, per_example=True, largest=8),
        FiniteDifference(1, "central", per_example=True, largest=8),
    ):
        (result,) = learner.train(session, params, ONE, cohort()[:1])
        z = directions_of(result).astype(np.float64)
        assert z.shape[0] == ONE.batch_size
        slopes = slopes_of(result, lr=ONE.lr, per_step=ONE.batch_size)
        parts = _parts(session, params)
        want = [ONE.batch_size * (v @ part) for v, part in zip(z, parts, strict=True)]
        np.testing.assert_allclose(slopes, want, rtol=0.01, atol=0.01)
    assert model.layout.size == z.shape[1]


def _parts(session: Session, params: Params) -> list[NDArray[np.float64]]:
    """The gradient of each example's share in the first client's mean loss."""
    batch = next(iter(local_batches(cohort()[0], ONE)))
    count = float(session.losses(session.store(params, 1), [batch]).count)
    found = []
    for i in range(len(batch)):
        store = session.store(params, 1)
        losses = session.losses(store, [batch[i : i + 1]])
        (losses.loss * losses.count / count).sum().backward()
        found.append(store.grad[0].double().numpy())
    return found


def test_finite_differences_come_to_the_same(model_folder: Folders, ragged: Ragged) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, "fused")
    exact = ForwardGradient(8, largest=4).train(session, params, ONE, cohort())
    errors = []
    for h in (0.03, 0.01, 0.003):
        learner = FiniteDifference(8, "central", h=h, largest=4)
        found = learner.train(session, params, ONE, cohort())
        pairs = zip(found, exact, strict=True)
        errors.append(max(np.abs(_scalars(a) - _scalars(b)).max() for a, b in pairs))
    assert errors[0] > errors[1]
    assert errors[2] <= 3  # of 2^-13 each
    for one, other in zip(found, exact, strict=True):
        assert steps_of(one).coefficient == steps_of(other).coefficient
        assert steps_of(one).origin == steps_of(other).origin


def _scalars(result: object) -> NDArray[np.int32]:
    return steps_of(result).scalars  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["fused", "transformers"])
def test_tensors_move_by_any_optimizer(model_folder: Folders, ragged: Ragged, engine: str) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, engine)
    work = LocalWork(epochs=2, batch_size=4, optimizer="adamw", lr=0.01, clip_norm=1.0)
    for learner in (ForwardGradient(2, send="tensors"), FiniteDifference(2, send="tensors")):
        for result in learner.train(session, params, work, cohort()):
            assert result.steps is None
            assert result.layout == params.layout
            assert np.isfinite(result.delta).all()
            assert np.count_nonzero(result.delta) > 0.9 * result.layout.size


def test_tensors_and_scalars_are_the_same_move(model_folder: Folders, ragged: Ragged) -> None:
    model, params, session = prepared(CASES["llama"], model_folder, ragged, "fused")
    dense = ForwardGradient(4, send="tensors").train(session, params, SEVERAL, cohort())
    sent = ForwardGradient(4, largest=8).train(session, params, SEVERAL, cohort())
    for one, other in zip(dense, sent, strict=True):
        moved = steps_of(other)
        want = model.layout.gather(one.delta, moved.layout)
        # Scalars are multiples of 2^-11, and slopes along them about 0.3.
        assert np.linalg.norm(moved.vector() - want) < 0.005 * np.linalg.norm(want)


@dataclass
class Backwards:
    """A session whose losses forget derivatives, or have none."""

    inner: Session
    has: bool

    def store(self, params: Params, clients: int) -> Store:
        return self.inner.store(params, clients)

    def losses(self, store: Store, rows: Rows) -> Losses:
        if not self.has and not torch.is_grad_enabled():
            raise NotImplementedError("Trying to use forward AD with thing that does not")
        plain = torch.autograd.forward_ad.unpack_dual(store.values).primal
        store.values = plain
        return self.inner.losses(store, rows)

    def tokens(self, rows: NDArray[np.int64]) -> int:
        return self.inner.tokens(rows)

    def flops(self, tokens: int) -> float:
        return self.inner.flops(tokens)

    def memory(self, tokens: int, *, backward: bool) -> int:
        return self.inner.memory(tokens, backward=backward)

    def over(self, rows: NDArray[np.int64]) -> "Backwards":
        return self


@pytest.mark.parametrize(("has", "why"), [(False, "forward AD"), (True, "without a derivative")])
def test_models_without_derivatives_are_refused(
    model_folder: Folders, ragged: Ragged, has: bool, why: str
) -> None:
    _, params, session = prepared(CASES["bert-mean"], model_folder, ragged, "fused")
    with pytest.raises(ConfigError, match=rf"{why}.*use learner 'finite-difference'"):
        ForwardGradient(2).train(Backwards(session, has), params, ONE, cohort())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_of_the_peft_library(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    options: dict[str, Option] = {"method": "lora", "r": 4, "target_modules": ("query", "value")}
    model = case.build(model_folder, Component("peft", options))
    params = start(model)
    session = model.session(params, ("*",), case.examples(ragged))
    exact = ForwardGradient(3, largest=4).train(session, params, ONE, cohort()[:1])
    near = FiniteDifference(3, "central", largest=4).train(session, params, ONE, cohort()[:1])
    assert np.abs(_scalars(exact[0]) - _scalars(near[0])).max() <= 40  # of 2^-13 each
    assert np.abs(_scalars(exact[0])).max() > 200


@pytest.mark.parametrize("engine", ["fused", "transformers"])
def test_threads_side_by_side_change_no_bit(
    model_folder: Folders, ragged: Ragged, engine: str
) -> None:
    _, params, session = prepared(CASES["llama"], model_folder, ragged, engine)
    learner = ForwardGradient(2)

    def train(own: Assignment) -> LocalResult:
        return learner.train(session, params, SEVERAL, [own])[0]

    alone = [train(own) for own in cohort()]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(train, cohort()))
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(_scalars(one), _scalars(other))
        assert np.array_equal(one.delta, other.delta)
