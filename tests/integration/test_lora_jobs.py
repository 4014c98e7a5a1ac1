"""Jobs of federated LoRA in the simulator: ranks, side-cars, resuming, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import classify_table, labelled_rows, tensors_of
from test_fedpeptao_rounds import StopsAfter

import fedloom
from fedloom.core.errors import ConfigError
from fedloom.core.ranks import of_rank
from fedloom.progress import Quiet
from fedloom.results.observe import Observer
from fedloom.simulation.simulator import Run

DATA = labelled_rows(240, clients=12)
FRAME = 28
RANKS = [[1, 0.4], [2, 0.3], [4, 0.3]]


def table(models: dict[str, Path], folder: Path, strategy: Any, **changes: Any) -> dict[str, Any]:
    """Three rounds of six of twelve clients, of LoRA of rank 4 with room beside it."""
    made = classify_table(models["classify"])
    made["adapter"] = {"name": "lora", "rank": 4, "side": 16}
    local = {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "weight_decay": 0.1}
    stage = {"name": "one", "rounds": 3, "clients_per_round": 6, "local": local}
    made["stages"] = [{**stage, "strategy": strategy}]
    made["run"] |= {"directory": str(folder)}
    return made | changes


def simulated(made: dict[str, Any], observer: Observer | None = None) -> Run:
    return fedloom.simulate(made, data=DATA, observer=observer or Quiet(), resume=True)


class Noting(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("name", ["flora", "flexlora", "hetlora"])
def test_a_cohort_of_several_ranks_at_once_is_one_by_one(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    strategy = {"name": name, "ranks": RANKS}
    found = []
    for most in (0, 1):
        made = table(text_model, tmp_path / str(most), strategy)
        made["run"]["clients_at_once"] = most
        found.append(simulated(made))
    np.testing.assert_allclose(found[0].params.vector, found[1].params.vector, atol=2e-5)
    assert [line.refused for line in found[0].history] == [0, 0, 0, 0]


def test_clients_send_as_much_as_their_rank(text_model: dict[str, Path], tmp_path: Path) -> None:
    up = {}
    for rank in (1, 4):
        strategy = {"name": "flora", "ranks": [[rank, 1.0]]}
        run = simulated(table(text_model, tmp_path / str(rank), strategy))
        up[rank] = run.history["bytes_up"][-1]
        sent = [spec for spec in run.params.layout if spec.trains]
        size = sum(s.size for s in of_rank(run.params.layout, rank) if s.trains)
        assert up[rank] == 6 * (4 * size + FRAME)
        assert len(sent) == 2 * 6 + 2
        # Down come as many rows and columns, and the side-car.
        down = of_rank(run.params.layout, rank).size
        assert run.history["bytes_down"][-1] == 6 * (4 * down + FRAME)
    assert up[1] < 0.35 * up[4]


def test_a_run_goes_on_with_its_side_car(text_model: dict[str, Path], tmp_path: Path) -> None:
    strategy = {"name": "flora", "ranks": RANKS}
    simulated(table(text_model, tmp_path / "whole", strategy))
    cut = table(text_model, tmp_path / "cut", strategy)
    assert simulated(cut, StopsAfter(2)).summary.interrupted
    simulated(cut)
    assert tensors_of(tmp_path / "whole") == tensors_of(tmp_path / "cut")
    side = {n: t for n, t in tensors_of(tmp_path / "cut").items() if n.endswith("side_B")}
    assert len(side) == 6
    assert all(any(tensor) for tensor in side.values())


def test_what_a_small_side_car_lost_is_told(text_model: dict[str, Path], tmp_path: Path) -> None:
    lost = {}
    for side in (2, 30):
        made = table(text_model, tmp_path / str(side), {"name": "fedex-lora"})
        made["adapter"]["side"] = side
        lost[side] = simulated(made).history["metrics.side_lost"][1:]
    assert min(lost[2]) > 0.05
    assert max(lost[30][:1]) < 1e-6  # five clients more than one, of rank 4: 20 in the first round


def test_devices_say_their_rank_by_their_kind(text_model: dict[str, Path], tmp_path: Path) -> None:
    tiers = [{"name": "small", "share": 0.5, "rank": 1}, {"name": "large", "share": 0.5}]
    made = table(text_model, tmp_path, {"name": "flexlora"}, tiers=tiers)
    run = simulated(made)
    layout = run.params.layout
    small, large = (
        4 * sum(s.size for s in of_rank(layout, rank) if s.trains) + FRAME for rank in (1, None)
    )
    sizes = {n * small + (6 - n) * large for n in range(1, 6)}
    assert set(run.history["bytes_up"][1:]) <= sizes


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        ("flora", {"adapter": {"name": "lora"}}, "stage 'one': strategy flora: the adapter has no"),
        ({"name": "flora", "ranks": [[5, 1.0]]}, {}, "ranks = 5: 1 to the adapter's rank, 4"),
        ("fedavg", {"tiers": [{"name": "a", "rank": 2}]}, "'fedavg' takes whole updates; 'flexl"),
        (
            "flora",
            {"tiers": [{"name": "a", "rank": 9}]},
            r"tiers.a.rank = 9: the adapter's rank is",
        ),
        (
            {"name": "flora", "ranks": [[1, 1.0]]},
            {"learner": {"name": "forward-gradient", "send": "tensors", "exact": []}},
            "learner: 'forward-gradient' moves all numbers of the adapter",
        ),
        (
            {"name": "flora", "ranks": [[1, 1.0]]},
            {"split": {"mode": "v1", "bottom": 1}},
            r"clients of a split model \(split.mode = 'v1'\) have all of it",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_round(
    strategy: Any,
    changes: dict[str, Any],
    message: str,
    text_model: dict[str, Path],
    tmp_path: Path,
) -> None:
    made = table(text_model, tmp_path / "run", strategy, **changes)
    with pytest.raises(ConfigError, match=message):
        simulated(made)
    assert not (tmp_path / "run").exists()


AVERAGED = "the mean of the tensors is no mean of the models"


@pytest.mark.parametrize(
    ("strategy", "changes", "lines"),
    [
        ("fedavg", {}, 1),
        ("fedit", {}, 1),
        ("ffa-lora", {}, 0),
        ("rolora", {}, 0),
        ("fedex-lora", {}, 0),
        ("fedavg", {"adapter": {"name": "ia3"}}, 0),
        ("fedavg", {"adapter": {"name": "fed-sb", "rank": 4}}, 0),
        ("fedavg", {"adapter": {"name": "bottleneck"}}, 1),
    ],
)
def test_a_line_says_where_means_of_tensors_are_no_means_of_models(
    strategy: str, changes: dict[str, Any], lines: int, text_model: dict[str, Path], tmp_path: Path
) -> None:
    made, seen = table(text_model, tmp_path, strategy, **changes), Noting()
    made["stages"][0]["rounds"] = 1
    simulated(made, seen)
    assert len([note for note in seen.notes if AVERAGED in note]) == lines


def test_a_split_model_has_its_side_car_on_both_sides(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    whole = simulated(table(text_model, tmp_path / "whole", {"name": "fedex-lora"}))
    split = {"mode": "v1", "bottom": 1}
    made = table(text_model, tmp_path / "split", {"name": "fedex-lora"}, split=split)
    far = simulated(made)
    np.testing.assert_allclose(far.params.vector, whole.params.vector, atol=1e-6)
    named = whole.params.layout.unflatten(whole.params.vector)
    assert all(tensor.any() for name, tensor in named.items() if name.endswith("side_B"))
