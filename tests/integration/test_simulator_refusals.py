"""A client that diverges costs its own update and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from small_jobs import classify_table, labelled_rows, numbers_of

import fedloom
from fedloom.progress import Quiet

LEARNER = """
import numpy as np
from dataclasses import replace
from fedloom.tuning.learners.backprop import Backprop

class OneDiverges:
    def train(self, session, params, work, cohort, briefing):
        results = Backprop().train(session, params, work, cohort)
        return [
            replace(r, delta=np.full_like(r.delta, np.nan)) if r.client == "c03" else r
            for r in results
        ]
"""


def test_a_client_whose_delta_is_not_finite_is_refused_and_reported(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diverging_learner.py").write_text(LEARNER)
    monkeypatch.chdir(tmp_path)
    learner = "diverging_learner:OneDiverges"
    table = classify_table(text_model["classify"], learner=learner, codec_up="int8")
    table["run"]["directory"] = str(tmp_path / "run")
    table["stages"] = [{**stage, "clients_per_round": 12} for stage in table["stages"]]

    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())

    rounds = numbers_of(tmp_path / "run")[1:]
    assert [(line["accepted"], line["refused"]) for line in rounds] == [(11, 1)] * 8
    assert [refusal["client"] for line in rounds for refusal in line["refusals"]] == ["c03"] * 8
    assert "sent no delta" in rounds[0]["refusals"][0]["reason"]
    assert np.isfinite(run.params.vector).all()
    assert run.summary.after["loss"] < run.summary.before["loss"] - 0.2


def test_a_learning_rate_that_blows_everyone_up_leaves_the_model_as_it_was(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"])
    local = {"lr": 1e30, "epochs": 3, "batch_size": 4}
    table["stages"] = [{"rounds": 2, "clients_per_round": 4, "local": local}]
    table["run"]["directory"] = str(tmp_path)

    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())

    assert run.history["refused"].tolist() == [0, 4, 4]
    assert run.summary.after == run.summary.before
