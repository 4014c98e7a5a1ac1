"""Stages that cannot begin are refused before anything is written, late ones too."""

from pathlib import Path
from typing import Any

import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
import fedloom.strategies
from fedloom.core.errors import StrategyError
from fedloom.progress import Quiet

DROPS = {"name": "block-drop", "rate": 0.3}
SEARCH = {"name": "bbtv2", "k": 5, "popsize": 4}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strategy": {"name": "krum", "f": 2}}, r"configure, round 4: krum: f = 2 with n = 6 cl"),
        ({"strategy": "fedsa-lora"}, r"configure, round 4: strategy fedsa-lora: keep = \[\]: exp"),
        (
            {"strategy": "spry", "codec_up": DROPS},
            "configure, round 4: what 'c.*' is to send: block-drop: .*; the smallest block, '",
        ),
        (
            {"strategy": SEARCH, "keep": ["head"]},
            r"configure, round 4: keep = \['head'\]: the learner 'black-box' moves all tensors",
        ),
    ],
)
def test_a_late_stage_that_cannot_begin_is_refused_before_the_first(
    text_model: dict[str, Path], tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    table = classify_table(text_model["classify"])
    table["stages"][1].update(changes)
    table["run"]["directory"] = str(tmp_path / "run")
    with pytest.raises(StrategyError, match=text):
        fedloom.simulate(table, data=labelled_rows(), observer=Quiet(), overwrite=True)
    assert not (tmp_path / "run").exists()


class Counts:
    """FedAvg, given as an object, that counts its calls."""

    def __init__(self) -> None:
        self.inner, self.calls = fedloom.strategies.fedavg(), 0
        self.init, self.accumulate = self.inner.init, self.inner.accumulate
        self.apply = self.inner.apply

    def configure(self, state: Any, cohort: Any) -> Any:
        self.calls += 1
        return self.inner.configure(state, cohort)


def test_an_object_is_called_once_a_round(text_model: dict[str, Path], tmp_path: Path) -> None:
    table, counts = classify_table(text_model["classify"]), Counts()
    table["stages"] = [{**table["stages"][0], "rounds": 2}]
    table["run"]["directory"] = str(tmp_path)
    fedloom.simulate(table, data=labelled_rows(), observer=Quiet(), strategy=counts)
    assert counts.calls == 2
