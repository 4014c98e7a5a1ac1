"""Ditto: the global model as without it, and beside it one of each client's own, held near."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, apart, cohort, start
from small_jobs import classify_table, labelled_rows, numbers_of
from stopping import StopsAfter

import fedloom
from fedloom.core.layout import Layout
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.ditto import Ditto
from fedloom.tuning.learning import Assignment
from fedloom.tuning.own import part_of

WORK = LocalWork(epochs=1, batch_size=4, lr=0.05)


def with_models(layout: Layout, params: Params) -> list[Assignment]:
    """A cohort of five, each with a model of its own."""
    draw, held = np.random.default_rng(4), Ditto().remembers(layout)
    own = [draw.normal(scale=0.1, size=held.size).astype(np.float32) for _ in cohort()]
    pairs = zip(cohort(), own, strict=True)
    return [replace(one, own=Params(held, params.vector + mine)) for one, mine in pairs]


def test_one_step_is_along_the_own_gradient_and_towards_the_global_model(
    model_folder: Folders, ragged: Ragged
) -> None:
    case, work = CASES["bert"], replace(WORK, steps=1)
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    for one in with_models(params.layout, params):
        (found,) = Ditto(near=0.3).train(session, params, work, [one])
        (plain,) = Backprop().train(session, params, work, [replace(one, own=None)])
        np.testing.assert_array_equal(found.delta, plain.delta)  # of the global model: as without
        assert one.own is not None
        assert found.kept is not None
        before, after = (part_of("personal/", own) for own in (one.own, found.kept))
        (apart_step,) = Backprop().train(session, before, work, [replace(one, own=None)])
        wanted = before.vector + apart_step.delta - 0.05 * 0.3 * (before.vector - params.vector)
        np.testing.assert_allclose(after.vector, wanted, atol=1e-6)
        assert found.tokens == 2 * plain.tokens


def test_at_once_is_one_by_one(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    clients = with_models(params.layout, params)
    alone = [Ditto().train(session, params, WORK, [one])[0] for one in clients]
    at_once = Ditto().train(session, params, WORK, clients)
    assert apart(at_once, alone) < 1e-5
    for mine, other in zip(at_once, alone, strict=True):
        assert mine.kept is not None
        assert other.kept is not None
        np.testing.assert_allclose(mine.kept.vector, other.kept.vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [[], ["head"]])
def test_own_models_are_judged_and_survive_an_interruption(
    text_model: dict[str, Path], tmp_path: Path, keep: list[str]
) -> None:
    made = classify_table(text_model["classify"])
    local = {"lr": 0.1, "batch_size": 8}
    made["learner"] = {"name": "ditto", "near": 0.05}
    made["stages"] = [{"rounds": 4, "clients_per_round": 10, "local": local, "keep": keep}]
    made["evaluate"] = {"clients": 20, "hold_out": 0.3}
    data = labelled_rows(360, clients=30)
    found = []
    for name, stops in (("whole", ()), ("torn", (1, 2))):
        made["run"] = {**made["run"], "directory": str(tmp_path / name)}
        for stop in stops:
            fedloom.simulate(made, data=data, observer=StopsAfter(stop), resume=True)
        run = fedloom.simulate(made, data=data, observer=Quiet(), resume=bool(stops))
        found.append((numbers_of(run.directory), run.summary.own_examples))
    assert found[0] == found[1]
    told = found[0][1]
    assert told["personal_loss"] != told["loss"]
