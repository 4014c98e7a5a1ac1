"""Clients that only see losses: what they answer, that they ask for no gradient, and whole runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from numpy.typing import NDArray
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.codecs.exchange import client_update
from fedloom.codecs.scalars import Scalars
from fedloom.core.component import Option
from fedloom.core.errors import CodecError, ConfigError
from fedloom.core.registry import Component
from fedloom.core.steps import Directions
from fedloom.core.subspaces import Subspace
from fedloom.core.types import Briefing, ClientTask, Cost, LocalWork, Params
from fedloom.progress import Quiet
from fedloom.tuning.base import Session
from fedloom.tuning.learners.black_box import BlackBox
from fedloom.tuning.learners.subspace_search import SubspaceSearch
from fedloom.tuning.learning import Learner, LocalResult

WORK = LocalWork(batch_size=4)
K = 6
SEARCH = SubspaceSearch(k=K, popsize=6, alpha=0.3, pool=8)
ADAPTERS = {"lora": ("lora",), "prefix": ("prefix",)}
# What peft and transformers use of each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def briefing(count: int = 5, **changes: Any) -> Briefing:
    points = np.random.default_rng(3).integers(-300, 300, (count, K)).astype(np.int16)
    found: dict[str, NDArray[np.generic]] = {
        "points": points,
        "pool": np.array([2 * K], dtype=np.int32),
        "first": np.array([K], dtype=np.int32),
        "worth": np.array([2.0**-11]),
        "gaussian": np.array([0], dtype=np.uint8),
    }
    return {**found, **changes}


def prepared(
    folders: Folders, ragged: Ragged, adapter: str | Component = "lora", train: str = "lora"
) -> tuple[Params, Session]:
    case = CASES["bert-mean"]
    model = case.build(folders, adapter)
    params = start(model)
    return params, model.session(params, (train,), case.examples(ragged))


def scalars_of(results: Sequence[LocalResult]) -> list[NDArray[np.float64]]:
    found = []
    for result in results:
        assert result.steps is not None
        found.append(result.steps.scalars.astype(np.float64) * result.steps.coefficient)
    return found


def without_gradients(session: Session) -> Session:
    """The same session; whoever touches a gradient, or runs with gradients on, fails."""
    make, losses = session.store, session.losses

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"a gradient was asked for: {name}")

        __getitem__ = __setitem__ = __getattr__

    def store(params: Params, clients: int) -> Any:
        found = make(params, clients)
        found.grad = Forbidden()  # type: ignore[assignment]
        found.anchor = found.anchor.detach()
        return found

    def watched(rows: Any, batch: Any) -> Any:
        assert not torch.is_grad_enabled()
        found = losses(rows, batch)
        assert not found.loss.requires_grad
        return found

    session.store, session.losses = store, watched  # type: ignore[method-assign,assignment]
    session.over = lambda rows: session  # type: ignore[method-assign]
    return session


@pytest.mark.parametrize("learner", [BlackBox(), SEARCH], ids=["black-box", "subspace-search"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_gradient_is_ever_asked_for(
    model_folder: Folders, ragged: Ragged, learner: Learner, adapter: str
) -> None:
    params, session = prepared(model_folder, ragged, adapter, adapter)
    found = learner.train(without_gradients(session), params, WORK, cohort(), briefing())
    assert all(result.steps is not None for result in found)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_answers_are_the_losses_of_changed_models(
    model_folder: Folders, ragged: Ragged, adapter: str
) -> None:
    params, session = prepared(model_folder, ragged, adapter, adapter)
    learner = BlackBox()
    found = scalars_of(learner.train(session, params, WORK, cohort(), briefing()))
    layout = session.store(params, 1).trained
    points = np.asarray(briefing()["points"]).astype(np.int64)
    changes = Subspace(layout, Directions("pool", 2 * K), K, K, 2.0**-11).changes(points, 0)
    for own, answers in zip(cohort(), found, strict=True):
        here, there = 0.0, np.zeros(5)
        for i, change in enumerate((np.zeros_like(changes[0]), *changes)):
            store = session.store(params, 1)
            store.values = store.values + torch.from_numpy(change)
            with torch.no_grad():
                loss = float(session.losses(store, [own.rows]).loss[0])
            here, there[i - 1] = (loss, 0.0) if i == 0 else (here, loss - here)
        np.testing.assert_allclose(answers, there, atol=1e-4)  # steps of 2^-13
    assert np.abs(found).max() > 0.003


@pytest.mark.parametrize("learner", [BlackBox(), SEARCH], ids=["black-box", "subspace-search"])
def test_at_once_is_one_by_one(model_folder: Folders, ragged: Ragged, learner: Learner) -> None:
    params, session = prepared(model_folder, ragged)
    found = scalars_of(learner.train(session, params, WORK, cohort(), briefing()))
    for own, answers in zip(cohort(), found, strict=True):
        (alone,) = scalars_of(learner.train(session, params, WORK, [own], briefing()))
        np.testing.assert_allclose(answers, alone, atol=2e-4)


def test_without_candidates_the_model_as_it_is(model_folder: Folders, ragged: Ragged) -> None:
    params, session = prepared(model_folder, ragged)
    for result in BlackBox().train(session, params, WORK, cohort()):
        assert scalars_of([result])[0].tolist() == [0.0]
        assert np.isfinite(result.metrics["loss"])


def test_a_candidate_that_overflows_is_the_worst(model_folder: Folders, ragged: Ragged) -> None:
    # 300 * 2^127 is more than float32 holds.
    params, session = prepared(model_folder, ragged, "prefix", "prefix")
    wild = np.zeros((5, K), dtype=np.int16)
    wild[2] = 300
    told = briefing(points=wild, worth=np.array([2.0**127]))
    with np.errstate(over="ignore", invalid="ignore"):
        found = scalars_of(BlackBox().train(session, params, WORK, cohort(), told))
    for answers in found:
        assert answers[2] == 32767 * 2.0**-13
        assert np.delete(answers, 2).tolist() == [0.0] * 4


@pytest.mark.parametrize("learner", [BlackBox(), SEARCH], ids=["black-box", "subspace-search"])
def test_a_model_that_gives_no_number_is_not_sent(
    model_folder: Folders, ragged: Ragged, learner: Learner
) -> None:
    params, session = prepared(model_folder, ragged)
    session = (
        CASES["bert-mean"]
        .build(model_folder, "lora")
        .session(params, ("lora",), CASES["bert-mean"].examples(ragged))
    )
    broken = Params(params.layout, np.full_like(params.vector, np.nan))
    results = learner.train(session, broken, WORK, cohort(), briefing())
    task = ClientTask("c0", 1, 0)
    for result in results:
        assert result.steps is None
        update = client_update(
            task,
            result.layout,
            result.delta,
            Scalars(exact=()),
            num_examples=result.num_examples,
            metrics=result.metrics,
            cost=Cost(),
            model=params.layout,
        )
        assert update.payload is None  # which the server refuses as no-delta


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"points": np.zeros((0, K), dtype=np.int16)}, r"points int16 \[0, 6\]"),
        ({"points": np.zeros((3, K), dtype=np.float32)}, r"points float32"),
        ({"points": np.zeros(3, dtype=np.int16)}, "not candidates of a search"),
        ({"first": np.zeros(0, dtype=np.int32)}, "not candidates of a search"),
        ({"worth": np.array([np.nan])}, "in steps of nan"),
    ],
)
def test_a_briefing_of_something_else(
    model_folder: Folders, ragged: Ragged, changes: dict[str, Any], text: str
) -> None:
    params, session = prepared(model_folder, ragged)
    with pytest.raises(CodecError, match=text):
        BlackBox().train(session, params, WORK, cohort(), briefing(**changes))


def test_candidates_of_a_pool_that_is_too_small(model_folder: Folders, ragged: Ragged) -> None:
    params, session = prepared(model_folder, ragged)
    told = briefing(pool=np.array([K], dtype=np.int32))
    with pytest.raises(ConfigError, match="k = 6: at most the 6 directions of the pool"):
        BlackBox().train(session, params, WORK, cohort(), told)


def test_a_clients_search_lowers_its_loss(model_folder: Folders, ragged: Ragged) -> None:
    params, session = prepared(model_folder, ragged, "prefix", "prefix")
    own = cohort()[3]
    work = LocalWork(steps=12, batch_size=64)
    learner = SubspaceSearch(k=20, popsize=12, alpha=1.0, pool=20)
    (result,) = learner.train(session, params, work, [own])
    assert result.steps is not None
    moved = params.layout.gather(params.vector, result.steps.layout) + result.steps.vector()
    after = Params(params.layout, params.layout.scatter(params.vector, result.steps.layout, moved))
    losses = []
    for model in (params, after):
        store = session.store(model, 1)
        with torch.no_grad():
            losses.append(float(session.losses(store, [own.rows]).loss[0]))
    assert losses[1] < losses[0] - 0.01


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 9, "pool": 8}, "k = 9: at most the 8 directions of the pool"),
        ({"k": 0}, "k = 0"),
        ({"popsize": 0}, "popsize = 0"),
        ({"alpha": 0.0}, "alpha = 0.0"),
    ],
)
def test_a_search_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SubspaceSearch(**options)


def test_an_answer_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"largest = 0\.0: above 0 and finite"):
        BlackBox(0.0)


def test_a_model_of_one_row_answers_the_same(model_folder: Folders, ragged: Ragged) -> None:
    options: dict[str, Option] = {"method": "PROMPT_TUNING", "num_virtual_tokens": 4}
    params, session = prepared(model_folder, ragged, Component("peft", options), "*")
    found = BlackBox().train(session, params, WORK, cohort(), briefing())
    assert np.abs(scalars_of(found)).max() > 0


@pytest.mark.parametrize("name", ["bbtv2", "fed-bbpt"])
def test_a_head_and_then_a_search_lower_the_loss(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    search = {"name": name, "k": 10, "popsize": 8, "alpha": 1.0}
    table = classify_table(text_model["classify"], adapter={"name": "prefix", "tokens": 4})
    table["run"]["directory"] = str(tmp_path)
    table["stages"][0]["rounds"] = 1
    table["stages"][1] = {
        "name": "search",
        "rounds": 9,
        "clients_per_round": 12,
        "train": ["prefix"],
        "local": {"batch_size": 16},
        "strategy": search,
    }
    run = fedloom.simulate(table, data=labelled_rows(120), observer=Quiet())
    before, after = run.history["evaluation.loss"][1], run.history["evaluation.loss"][-1]
    assert after < before
