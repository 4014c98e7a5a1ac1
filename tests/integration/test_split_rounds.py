"""Live rounds over a split model: what devices and server come to is what the simulator does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosted_federation import bits, devices_of, live, opened, simulated, table_of


@pytest.mark.parametrize(
    "split",
    [
        {"codec_up": "int8", "codec_down": "bf16"},
        {"labels": "far"},
        {"recompute": True, "bottom": 0},
    ],
    ids=["home", "far", "recompute"],
)
def test_own_copies_end_where_the_simulators_do(
    text_model: dict[str, Path], tmp_path: Path, split: dict[str, Any]
) -> None:
    table = table_of(text_model["classify"], {"mode": "v1", **split})
    expected = simulated(table, tmp_path)
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path)
        played = live(federation, devices)
        assert federation.counting.refused == {}
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)
    for name in ("up", "down"):
        found = [getattr(each.report.cost, f"bytes_{name}") for each in played]
        assert found == [int(n) for n in expected.history[f"bytes_{name}"][1:]]


@pytest.mark.parametrize("mode", ["v1", "v2", "concat", "sequential"])
def test_one_client_a_round_is_the_same_in_every_mode(
    text_model: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    table = table_of(text_model["classify"], {"mode": mode}, 1)
    expected = simulated(table, tmp_path, 1)
    with opened(table, tmp_path) as federation:
        played = live(federation, devices_of(federation, tmp_path, 1))
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)


@pytest.mark.parametrize("labels", ["home", "far"])
def test_who_steps_together_ends_where_the_simulators_do(
    text_model: dict[str, Path], tmp_path: Path, labels: str
) -> None:
    # The far side's batches are the simulator's, in its order. At home three clients are there one
    # by one, where the simulator has them in one product: the last bits differ.
    split = {"mode": "concat", "labels": labels, "patience": 60.0}
    table = table_of(text_model["classify"], split, 3, local={"optimizer": "sgd", "lr": 0.1})
    expected = simulated(table, tmp_path, 3)
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path, 3)
        played = live(federation, devices)
        assert federation.counting.refused == {}
    found, start = played[-1].state.params.vector, federation.plan.start.vector
    apart = np.linalg.norm(found - expected.params.vector)
    assert apart < 1e-5 * np.linalg.norm(expected.params.vector - start)
