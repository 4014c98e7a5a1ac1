"""Batches in parts and blocks that run again: the same updates, and less memory by the formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cohorts import CASES, Case, Folders, Ragged, apart, cohort, start

from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.examples import Examples
from fedloom.tuning.fitting import run_by, ways_of
from fedloom.tuning.fused_session import FusedSession
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.forward_gradient import ForwardGradient
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Learner, LocalResult
from fedloom.tuning.sparing import Sparing, descend, portions
from fedloom.tuning.ways import Way, best, least

SGD = LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0, prox_mu=0.1)
ADAM = LocalWork(steps=5, batch_size=4, optimizer="adamw", lr=0.01, eps=1e-3, weight_decay=0.1)
PLAIN = LocalWork(steps=2, batch_size=5, lr=0.05)


def made(case: Case, folders: Folders, ragged: Ragged, adapter: str, engine: str) -> CohortModel:
    return case.build(folders, adapter, engine=engine)


def trained(
    model: CohortModel, session: Session, work: LocalWork, learner: Learner | None = None
) -> list[LocalResult]:
    return (learner or Backprop()).train(session, start(model), work, cohort())


@pytest.mark.parametrize(("work", "examples"), [(SGD, 1), (ADAM, 3)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_whole(
    model_folder: Folders, ragged: Ragged, name: str, adapter: str, work: LocalWork, examples: int
) -> None:
    """Clients of 9, 5, 3, 13 and 10 examples at once, so that some have nothing in a part."""
    case = CASES[name]
    model = made(case, model_folder, ragged, adapter, "fused")
    session = model.session(start(model), ("*",), case.examples(ragged))
    whole, parts = (trained(model, s, work) for s in (session, Sparing(session, examples)))
    assert apart(parts, whole) < 1e-5
    for one, other in zip(parts, whole, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
        assert one.memory <= other.memory


def test_parts_on_the_generic_engine(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["qwen2-lm"]
    model = made(case, model_folder, ragged, "lora", "transformers")
    session = model.session(start(model), ("*",), case.examples(ragged))
    whole, parts = (trained(model, s, SGD) for s in (session, Sparing(session, 1)))
    assert apart(parts, whole) < 1e-5


@pytest.mark.parametrize("learner", [FiniteDifference(directions=4), ForwardGradient(directions=4)])
@pytest.mark.parametrize("name", ["bert-mean", "gpt2-lm"])
def test_parts_of_forward_passes(
    model_folder: Folders, ragged: Ragged, name: str, learner: Learner
) -> None:
    """Scalars are rounded to 16 bits before they are stepped along, and a slope is a difference of
    losses of the size of their last bits times 1/h: hence the tolerance."""
    case = CASES[name]
    model = made(case, model_folder, ragged, "lora", "fused")
    if name == "gpt2-lm":
        learner = replace(learner, exact=())  # type: ignore[type-var]
    session = model.session(start(model), ("*",), case.examples(ragged))
    found = []
    for own in (session, run_by(session, ways_of_two(session, learner))):
        updates = trained(model, own, PLAIN, learner)
        found.append([r.steps.vector() for r in updates if r.steps is not None])
    for one, other in zip(*found, strict=True):
        assert np.linalg.norm(one - other) < 2e-2 * np.linalg.norm(other)


def ways_of_two(session: Session, learner: Learner) -> Way:
    plan = list(local_batches(cohort()[0], PLAIN))
    ways = ways_of(session, plan, learner, PLAIN, trained=10, size=10)
    return next(way for way in ways if way.examples == 2)


def test_losses_of_parts_are_client_by_client(model_folder: Folders, ragged: Ragged) -> None:
    for name in ("bert-mean", "gpt2-lm"):
        case = CASES[name]
        model = made(case, model_folder, ragged, "lora", "fused")
        session = model.session(start(model), ("*",), case.examples(ragged))
        rows = [np.arange(5), np.arange(5, 6), np.arange(6, 9)]
        store = session.store(start(model), 3)
        with torch.no_grad():
            whole, parts = (s.losses(store, rows) for s in (session, Sparing(session, 2)))
        for field in ("loss", "correct", "count", "each", "predicted", "target"):
            one, other = getattr(parts, field), getattr(whole, field)
            assert torch.allclose(one.double(), other.double(), atol=1e-5), field


def test_portions() -> None:
    """Five and two examples in three parts: 2 2 1, and 1 1 and its first once more, not counted."""
    found = list(portions([np.arange(5), np.array([7, 8])], 2))
    assert [[list(own) for own in part] for part, _ in found] == [
        [[0, 1], [7]],
        [[2, 3], [8]],
        [[4], [7]],
    ]
    assert [list(real) for _, real in found] == [[True, True], [True, True], [True, False]]


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        *((name, adapter) for name in CASES for adapter in ("lora", "ia3", "full", "kv-parallel")),
        *((name, "prefix") for name in ("bert", "llama", "qwen2-lm")),
    ],
)
def test_blocks_that_run_again_give_the_same_bits(
    model_folder: Folders, ragged: Ragged, name: str, adapter: str
) -> None:
    case = CASES[name]
    model = made(case, model_folder, ragged, adapter, "fused")
    session = model.session(start(model), ("*",), case.examples(ragged))
    assert isinstance(session, FusedSession)
    grads = []
    for own in (session.frugal(recompute=False), session.frugal(recompute=True), session):
        store = own.store(start(model), 2)
        descend(own, store, [np.arange(4), np.arange(4, 7)])
        grads.append(store.grad.clone())
    assert float(grads[0].abs().max()) > 0
    assert torch.equal(grads[0], grads[1])
    # Padding changes how additions associate, and nothing else.
    assert float((grads[0] - grads[2]).norm()) < 1e-5 * float(grads[2].norm())


def prepared(
    folders: Folders, ragged: Ragged, adapter: str | Component = "lora"
) -> tuple[CohortModel, FusedSession, Examples]:
    case = CASES["bert-mean"]
    model, examples = case.build(folders, adapter, engine="fused"), case.examples(ragged)
    session = model.session(start(model), ("*",), examples)
    assert isinstance(session, FusedSession)
    return model, session, examples


def test_the_ways_of_a_task(model_folder: Folders, ragged: Ragged) -> None:
    model, session, _ = prepared(model_folder, ragged)
    plan = [np.arange(7), np.arange(7, 9)]
    size = model.layout.size
    ways = ways_of(session, plan, Backprop(), LocalWork(), trained=size, size=size)
    assert sorted({(w.examples, w.parts) for w in ways}) == [(1, 7), (2, 4), (3, 3), (4, 2), (7, 1)]
    assert {w.recompute for w in ways} == {False, True}
    for again in (False, True):
        taken = [w.bytes for w in sorted(ways, key=lambda w: w.examples) if w.recompute == again]
        assert taken == sorted(taken)
    by_kind = {(w.examples, w.recompute): w for w in ways}
    # Three blocks of which all train: with recomputing one is kept whole, of the others 32 floats.
    tokens = session.tokens(np.arange(7)) + 16  # and padding
    kept = session.memory(tokens, backward=True) - session.memory(tokens, backward=False)
    less = by_kind[7, False].bytes - by_kind[7, True].bytes
    assert less == pytest.approx(1.25 * (kept * 2 / 3 - 3 * tokens * 32 * 4), abs=2)
    forward = ways_of(session, plan, FiniteDifference(), LocalWork(), trained=size, size=size)
    assert not any(w.recompute for w in forward)


def test_wide_adapters_keep_more(model_folder: Folders, ragged: Ragged) -> None:
    """LoRA on every linear keeps the inputs of the output, up and down products: 32 + 32 + 64."""
    few, many = (
        prepared(model_folder, ragged, adapter)[1]
        for adapter in ("lora", Component("lora", {"rank": 8, "targets": ("all-linear",)}))
    )
    found = [s.memory(1, backward=True) - s.memory(0, backward=True) for s in (few, many)]
    assert found[1] - found[0] == 3 * 4 * (32 + 32 + 64)


def test_a_way_runs_as_it_says(model_folder: Folders, ragged: Ragged) -> None:
    model, session, _ = prepared(model_folder, ragged)
    plan, size = list(local_batches(cohort()[3], SGD)), model.layout.size
    ways = ways_of(session, plan, Backprop(), SGD, trained=size, size=size)
    whole, small = best(ways, 10**12), least(ways)
    assert whole is not None
    assert not isinstance(run_by(session, whole), Sparing)
    assert isinstance(run_by(session, small), Sparing)
    results = [trained(model, run_by(session, way), SGD) for way in (whole, small)]
    assert apart(*results) < 1e-5
