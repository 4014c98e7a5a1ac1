"""Attackers in a simulation, and rules that hold against them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.core.errors import ConfigError, StrategyError
from fedloom.progress import Quiet


def played(model: Path, folder: Path, strategy: object, attack: object) -> Any:
    """The head's rounds with all twelve clients."""
    table = classify_table(model, strategy=strategy, attack=attack)
    table["stages"] = [{**table["stages"][0], "clients_per_round": 12}]
    table["run"]["directory"] = str(folder)
    return fedloom.simulate(table, data=labelled_rows(), observer=Quiet())


def test_a_trimmed_mean_learns_where_the_mean_is_led_astray(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    model, attack = text_model["classify"], {"name": "sign-flip", "clients": 3, "strength": 10.0}
    mean = played(model, tmp_path / "mean", "fedavg", attack)
    trimmed = {"name": "trimmed-mean", "f": 3}
    kept = played(model, tmp_path / "trimmed", trimmed, attack)
    assert mean.summary.after["loss"] > mean.summary.before["loss"] + 0.1
    assert kept.summary.after["loss"] < kept.summary.before["loss"] - 0.05
    again = played(model, tmp_path / "again", trimmed, attack)
    np.testing.assert_array_equal(kept.params.vector, again.params.vector)


def test_colluding_attackers_and_changed_labels_change_the_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    found = {
        played(text_model["classify"], tmp_path / name, "median", name).params.vector.tobytes()
        for name in ("none", "ipm", "label-flip")
    }
    assert len(found) == 3


@pytest.mark.parametrize("attack", ["sign-flip", "alie"])
def test_attackers_have_parts_of_the_rank_as_others_do(
    attack: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    strategy = {"name": "flora", "ranks": [[1, 0.5], [2, 0.5]]}
    table = classify_table(text_model["classify"], attack={"name": attack, "clients": 4})
    table["adapter"] = {"name": "lora", "rank": 2, "side": 8}
    table["stages"] = [{**table["stages"][1], "rounds": 2, "strategy": strategy}]
    table["run"]["directory"] = str(tmp_path)
    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())
    assert not np.asarray(run.history["refused"]).any()


def test_what_cannot_be_played_is_told_at_once(text_model: dict[str, Path], tmp_path: Path) -> None:
    model = text_model["classify"]
    few = r"configure, round 1: .*krum: f = 5 with n = 12 clients: n >= 2f \+ 3 = 13 is needed"
    with pytest.raises(StrategyError, match=few):
        played(model, tmp_path / "few", {"name": "krum", "f": 5}, "none")
    with pytest.raises(ConfigError, match="did you mean 'gaussian'"):
        played(model, tmp_path / "name", "fedavg", "gausian")
