"""Clients that correct their drift: what they step along, what they remember, and whole runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, apart, cohort, start
from small_jobs import classify_table, labelled_rows
from stopping import StopsAfter

import fedloom
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.controlled import Controlled, feddyn, scaffold
from fedloom.tuning.learning import Assignment
from fedloom.tuning.own import part_of

ONE = LocalWork(steps=1, batch_size=4, lr=0.05, head_lr=0.02)


def with_controls(learner: Controlled, layout: Layout) -> list[Assignment]:
    """A cohort of five, each of whom remembers a control of every tensor."""
    draw, held = np.random.default_rng(4), learner.remembers(layout)
    records = [draw.normal(scale=0.1, size=held.size).astype(np.float32) for _ in cohort()]
    pairs = zip(cohort(), records, strict=True)
    return [replace(one, own=Params(held, record)) for one, record in pairs]


def test_one_step_of_scaffold_is_along_the_gradient_less_own_plus_common_control(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session, size = model.session(params, ("*",), examples), params.layout.size
    common = np.random.default_rng(5).normal(scale=0.1, size=size).astype(np.float32)
    clients = with_controls(scaffold(), params.layout)
    found = scaffold().train(session, params, ONE, clients, {"control": common})
    plain = Backprop().train(session, params, ONE, cohort())
    heads = params.layout.select(("head",)).names
    for one, mine, bare in zip(clients, found, plain, strict=True):
        layout = mine.layout
        rates = np.concatenate([np.full(s.size, 0.02 if s.name in heads else 0.05) for s in layout])
        assert one.own is not None
        assert mine.kept is not None
        own = part_of("control/", one.own).only(layout).vector
        c = params.layout.gather(common, layout)
        np.testing.assert_allclose(mine.delta, bare.delta - rates * (c - own), atol=1e-6)
        # option II of eq. 4: after one step the control is the gradient that was seen
        seen = part_of("control/", mine.kept).only(layout).vector
        np.testing.assert_allclose(seen, -bare.delta / rates, atol=1e-4)


@pytest.mark.parametrize("rule", ["scaffold", "feddyn"])
def test_at_once_is_one_by_one(model_folder: Folders, ragged: Ragged, rule: str) -> None:
    case, learner = CASES["bert"], Controlled(rule)
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    work = LocalWork(epochs=2, batch_size=4, lr=0.05, prox_mu=0.1 if rule == "feddyn" else 0.0)
    clients = with_controls(learner, params.layout)
    alone = [learner.train(session, params, work, [one])[0] for one in clients]
    at_once = learner.train(session, params, work, clients)
    assert apart(at_once, alone) < 1e-5
    for mine, other in zip(at_once, alone, strict=True):
        assert mine.kept is not None
        assert other.kept is not None
        np.testing.assert_allclose(mine.kept.vector, other.kept.vector, rtol=1e-3, atol=1e-4)


def test_feddyn_tilts_the_loss_by_what_the_client_has_moved(
    model_folder: Folders, ragged: Ragged
) -> None:
    case, work = CASES["bert"], replace(ONE, prox_mu=0.3)
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    (one, *_) = with_controls(feddyn(), params.layout)
    (found,) = feddyn().train(session, params, work, [one])
    assert one.own is not None
    assert found.kept is not None
    before, after = (part_of("control/", own).only(found.layout) for own in (one.own, found.kept))
    np.testing.assert_allclose(after.vector, before.vector - 0.3 * found.delta, atol=1e-6)


@pytest.mark.parametrize(
    ("learner", "work", "told"),
    [
        (scaffold(), {"optimizer": "adamw"}, "plain SGD"),
        (scaffold(), {"momentum": 0.9}, "plain SGD"),
        (feddyn(), {"prox_mu": 0.0}, r"local.prox_mu = 0.0: above 0: alpha of FedDyn"),
    ],
)
def test_steps_that_it_cannot_go_with_are_refused(
    model_folder: Folders, ragged: Ragged, learner: Controlled, work: dict[str, Any], told: str
) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    with pytest.raises(ConfigError, match=told):
        learner.train(session, params, replace(ONE, **work), cohort())


def table(models: dict[str, Path], rule: str) -> dict[str, Any]:
    """Six rounds of ten of thirty clients."""
    made = classify_table(models["classify"])
    made["strategy"] = {"name": rule, "clients": 30}
    made["learner"] = {"name": rule}
    local = {"lr": 0.1, "batch_size": 8}
    made["stages"] = [{"rounds": 6, "clients_per_round": 10, "local": local}]
    return made


def simulate(made: dict[str, Any], folder: Path, observer: Quiet | None = None) -> Run:
    made = {**made, "run": {**made["run"], "directory": str(folder)}}
    data = labelled_rows(360, clients=30)
    return fedloom.simulate(made, data=data, observer=observer or Quiet(), resume=folder.exists())


@pytest.mark.parametrize("rule", ["scaffold", "feddyn"])
def test_a_run_that_goes_on_remembers_what_an_unbroken_one_does(
    text_model: dict[str, Path], tmp_path: Path, rule: str
) -> None:
    made = table(text_model, rule)
    whole = simulate(made, tmp_path / "whole")
    for stop in (2, 4):
        assert simulate(made, tmp_path / "torn", StopsAfter(stop)).summary.interrupted
    torn = simulate(made, tmp_path / "torn")
    np.testing.assert_array_equal(whole.params.vector, torn.params.vector)
    # From the second round on what is remembered counts.
    plain = simulate(
        {**made, "strategy": {"name": "fedavg"}, "learner": {"name": "backprop"}}, tmp_path / "avg"
    )
    assert np.isfinite(whole.params.vector).all()
    assert (plain.params.vector != whole.params.vector).any()


def test_half_of_a_method_is_refused(text_model: dict[str, Path], tmp_path: Path) -> None:
    text = r"learner = 'backprop', strategy = 'scaffold' .*: 'scaffold' is a method of both"
    with pytest.raises(ConfigError, match=text):
        simulate({**table(text_model, "scaffold"), "learner": {"name": "backprop"}}, tmp_path)
