"""What named methods promise of a round, in whole runs of a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import labelled_rows
from test_recipes import FRAME, table_of

import fedloom
from fedloom.core.types import ClientUpdate
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.strategies.pacing import Paced
from fedloom.strategies.step_total import StepTotal


def played(table: dict[str, Any]) -> Run:
    return fedloom.simulate(table, data=labelled_rows(), observer=Quiet())


def test_fwdllm_asks_the_same_clients_on_the_same_batches_until_it_moves(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, dict[str, float]] = {}
    accumulate = Paced.accumulate

    def listening(self: Paced, total: StepTotal | None, update: ClientUpdate) -> StepTotal:
        seen.setdefault(update.round, {})[update.client] = update.metrics["loss"]
        return accumulate(self, total, update)

    monkeypatch.setattr(Paced, "accumulate", listening)
    table = table_of("fwdllm", text_model, tmp_path) | {"rounds": 4}
    table["strategy"] |= {"tau": 1e-9, "patience": 3}
    table["local"]["batch_size"] = 4  # of a client's sixteen or so
    run = played(table)
    # The model stands still, so that the same batches give the same losses to the bit.
    assert seen[1] == seen[2] == seen[3]
    assert seen[4] != seen[3]
    assert run.history["metrics.waited"].tolist()[1:] == [1, 2, 3, 1]
    loss = run.history["evaluation.loss"]
    assert loss[0] == loss[1] == loss[2] != loss[3]


def test_a_pools_client_sends_and_gets_less_than_18_kilobytes(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    # Up: of at most 20 directions of 4096 a number and a scalar, two bytes each: 200 take 800.
    table = table_of("fedkseed", text_model, tmp_path)
    table["local"] |= {"steps": 20}
    table |= {"rounds": 2, "clients_per_round": 2}
    run = played(table)
    up, down = run.history["bytes_up"], run.history["bytes_down"]
    assert 0 < up.max() <= 2 * (FRAME + 20 * 4)
    assert up.max() + down.max() < 2 * 18_000


def test_split_units_of_one_client_are_plain_forward_gradients(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of("spry", text_model, tmp_path / "split")
    table |= {"rounds": 2, "clients_per_round": 1}
    alone = {**table, "run": {**table["run"], "directory": str(tmp_path / "alone")}}
    table["strategy"] = {"name": "spry", "optimizer": "sgd", "lr": 1.0}
    alone["strategy"] = {"name": "fedavg"}
    assert played(table).params.vector.tobytes() == played(alone).params.vector.tobytes()


def test_a_signs_step_has_one_length(text_model: dict[str, Path], tmp_path: Path) -> None:
    # FeedSign: lr times the one direction, whose coordinates have variance 1; five votes, no draw.
    table = table_of("feedsign", text_model, tmp_path) | {"clients_per_round": 5}
    run = played(table)
    change = run.history["metrics.delta_norm"][1:]
    expected = 1e-3 * np.sqrt(run.params.layout.size)
    np.testing.assert_allclose(change, expected, rtol=0.1)
    assert run.history["bytes_up"][-1] == 5 * (FRAME + 1)
