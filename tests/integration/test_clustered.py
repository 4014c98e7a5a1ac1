"""IFCA in runs: clients of two kinds that want opposite answers find two models."""

from pathlib import Path

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, cohort, start
from small_jobs import classify_table, labelled_rows
from stopping import StopsAfter

import fedloom
from fedloom.core.errors import ConfigError
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.clustered import Clustered

WORK = LocalWork(epochs=1, batch_size=4, lr=0.05)


def test_a_client_trains_the_model_of_its_lowest_loss(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    draw = np.random.default_rng(3)
    models = [
        params.vector + draw.normal(scale=s, size=params.layout.size).astype(np.float32)
        for s in (0.2, 0.3, 0.2)
    ]
    stack = {"clusters": np.stack(models)}
    found = Clustered().train(session, params, WORK, cohort(), stack)
    idle = LocalWork(epochs=1, batch_size=4, lr=1e-12)  # its loss is the model's, as it came
    for one, mine in zip(cohort(), found, strict=True):
        each = [
            Backprop().train(session, Params(params.layout, vector), idle, [one])[0]
            for vector in models
        ]
        best = int(np.argmin([result.metrics["loss"] for result in each]))
        assert mine.metrics["cluster"] == best
        whole = Params(params.layout, models[best])
        (alone,) = Backprop().train(session, whole, WORK, [one])
        np.testing.assert_allclose(mine.delta, alone.delta, atol=1e-6)


def test_opposite_clients_find_two_models_and_go_on_after_an_interruption(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    rows = labelled_rows(360, clients=12)
    names = sorted({row["label"] for row in rows})
    turned = dict(zip(names, [*names[1:], names[0]], strict=True))
    for row in rows:
        if int("".join(filter(str.isdigit, str(row["client"]))) or 0) % 2:
            row["label"] = turned[row["label"]]
    made = classify_table(text_model["classify"])
    made["learner"] = {"name": "ifca"}
    made["strategy"] = {"name": "ifca", "clusters": 2, "spread": 0.3}
    local = {"lr": 0.3, "batch_size": 8, "epochs": 2}
    made["stages"] = [{"rounds": 8, "clients_per_round": 12, "local": local}]
    made["evaluate"] = {"clients": 12, "hold_out": 0.25}
    found = []
    for name, stops in (("whole", ()), ("torn", (3,))):
        made["run"] = {**made["run"], "directory": str(tmp_path / name)}
        for stop in stops:
            fedloom.simulate(made, data=rows, observer=StopsAfter(stop), resume=True)
        found.append(fedloom.simulate(made, data=rows, observer=Quiet(), resume=bool(stops)))
    np.testing.assert_array_equal(found[0].params.vector, found[1].params.vector)
    told = found[0].summary.own_examples
    assert told == found[1].summary.own_examples
    assert told["personal_accuracy"] > told["accuracy"] + 0.1


def test_without_the_strategy_it_is_refused(text_model: dict[str, Path], tmp_path: Path) -> None:
    made = classify_table(text_model["classify"])
    made["learner"] = {"name": "ifca"}
    made["run"] = {**made["run"], "directory": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"'ifca' is a method of both"):
        fedloom.simulate(made, data=labelled_rows(60), observer=Quiet())
