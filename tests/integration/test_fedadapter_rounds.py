"""FedAdapter's recipe on a tiny model: groups side by side, what travels, the same bits again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_jobs import labelled_rows, write_rows
from torch import Tensor

import fedloom
from fedloom.core.config import read_toml
from fedloom.core.errors import ConfigError
from fedloom.core.job import job_from
from fedloom.progress import Quiet
from fedloom.results.observe import RoundLine
from fedloom.server.setup import plan_of
from fedloom.simulation.simulator import Run
from fedloom.sources import recipes
from fedloom.strategies.ladder import Configuration, Ladder
from fedloom.tuning.prefix import PrefixCache

CLIENTS = 6
# A step of one to three layers takes so long; bytes come at once.
SECONDS = [0.1, 1.0, 2.0, 3.0]


def table_of(backbone: Path, folder: Path, rounds: int = 6, **strategy: Any) -> dict[str, Any]:
    table = read_toml(recipes()["fedadapter"])
    table["backbone"] |= {"name": str(backbone), "max_tokens": 32}
    table["adapter"] |= {"units": 3}
    table["data"] = {"client": "client", "split": "split"}
    table["run"] = {"directory": str(folder), "workers": 1, "cache_gb": 0.1, "cache_disk_gb": 0.0}
    table["evaluate"]["every"] = 1
    table["local"] |= {"steps": 1}
    table["device"] |= {"step_seconds": SECONDS, "latency": 0.0, "up": 1e12, "down": 1e12}
    table["strategy"] |= {"depth": 1, "interval": 0.5, "expand": 3.5, **strategy}  # 2.25 s at 1
    table |= {"rounds": rounds, "clients_per_round": CLIENTS}
    return table


class Watch(Quiet):
    """Keeps the lines of a run, and stops it after some round."""

    def __init__(self, stop: int = -1) -> None:
        self.lines: list[RoundLine] = []
        self.stop = stop

    def round_done(self, line: RoundLine) -> None:
        self.lines.append(line)
        if line.round == self.stop:
            raise KeyboardInterrupt


def played(table: dict[str, Any], watch: Watch | None = None, *, resume: bool = False) -> Run:
    return fedloom.simulate(table, data=labelled_rows(), observer=watch or Watch(), resume=resume)


def test_groups_play_what_fits_and_send_what_they_train(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    watch = Watch()
    run = played(table_of(text_model["classify"], tmp_path), watch)
    # 2.25 s: two rounds of one layer, one of two layers.
    first, second = watch.lines[1:3]
    assert (first.accepted, second.accepted) == (6, 4)
    assert [line.metrics["clock"] for line in (first, second)] == pytest.approx([2.0, 2.0])
    assert [name for name in first.metrics if name.startswith("trial/")] == []
    trial = {name for name in second.metrics if name.startswith("trial/")}
    assert trial == {"trial/same", "trial/deeper", "trial/wider"}
    ladder, frame = Ladder.of(run.params.layout), 200  # bytes around the numbers, at most
    sizes = [ladder.part(Configuration(*own)).size for own in ((1, 1), (1, 2), (2, 1))]
    for line, groups in ((first, sizes), (second, sizes[:2])):
        numbers = 4 * 2 * sum(groups)  # two clients in each
        for sent in (line.bytes_up, line.bytes_down):
            assert numbers < sent < numbers + frame * line.accepted


def test_everybody_goes_on_from_the_winner(text_model: dict[str, Path], tmp_path: Path) -> None:
    watch = Watch()
    run = played(table_of(text_model["classify"], tmp_path, rounds=4), watch)
    end = watch.lines[2]
    trial = {n: end.metrics[f"trial/{n}"] for n in ("same", "wider", "deeper")}
    best = max(trial.values())
    assert end.evaluation["accuracy"] == pytest.approx(best)
    winner = next(name for name, score in trial.items() if score == best)
    own = {"same": (1, 1), "wider": (1, 2), "deeper": (2, 1)}[winner]
    assert (end.metrics["depth"], end.metrics["units"]) == own
    start, layout = run.prepared.model.initial(run.prepared.job.seed), run.params.layout
    later = Configuration(int(watch.lines[-1].metrics["depth"]), 3)
    still = {*layout.names} - {*Ladder.of(layout).part(later).names}
    for name in still:
        before, after = (layout.view(p.vector, name) for p in (start, run.params))
        assert np.array_equal(before, after)
    assert still


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_it_decides_the_same(
    text_model: dict[str, Path], tmp_path: Path, stop: int
) -> None:
    whole, torn, rest = Watch(), Watch(stop), Watch()
    model = text_model["classify"]
    want = played(table_of(model, tmp_path / "whole", rounds=5), whole)
    table = table_of(model, tmp_path / "torn", rounds=5)
    assert played(table, torn).summary.interrupted
    found = played(table, rest, resume=True)
    assert np.array_equal(found.params.vector, want.params.vector)
    assert [line.metrics for line in (*torn.lines[1:], *rest.lines)] == [
        line.metrics for line in whole.lines[1:]
    ]


def test_what_lies_below_is_computed_once(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[int] = []
    gather = PrefixCache.gather

    def counted(cache: PrefixCache, rows: NDArray[np.int64]) -> Tensor:
        recalled.append(len(rows))
        return gather(cache, rows)

    monkeypatch.setattr(PrefixCache, "gather", counted)
    table = table_of(text_model["classify"], tmp_path, rounds=1)
    table["evaluate"]["every"] = 100
    table["local"] |= {"steps": 0, "epochs": 2, "batch_size": 4}
    run = played(table)
    population = run.prepared.population
    size = min(len(population.rows_of(population.client(i).id)) for i in range(len(population)))
    # Two of three layers train at most; evaluations, of more at once, ask for activations too.
    batches = [rows for rows in recalled if rows <= 4 * CLIENTS]
    assert sum(batches) >= 2 * CLIENTS * size


def test_without_a_device_model_trials_are_of_rounds(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table, watch = table_of(text_model["classify"], tmp_path, rounds=3), Watch()
    table["device"] = {"name": "none"}
    played(table, watch)
    # A round is a second, whoever plays: all groups play two in 2.25 s.
    assert [line.metrics["clock"] for line in watch.lines[1:]] == [1.0, 2.0, 3.0]


def test_a_server_without_examples_cannot_judge(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["data"] |= {"classes": ["a", "b"]}
    with pytest.raises(ConfigError, match=r"'fedadapter': the server judges .* needs data.path"):
        plan_of(job_from(table), lambda text: None)


def test_a_server_of_a_split_model_has_no_branches(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["split"] = {"mode": "v1", "bottom": 1}
    table["data"] |= {"path": str(write_rows(tmp_path / "rows.jsonl", labelled_rows()))}
    with pytest.raises(ConfigError, match=r"'fedadapter': split\.mode = 'v1': clients"):
        plan_of(job_from(table), lambda text: None)


def test_a_split_model_has_no_branches(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["split"] = {"mode": "v1", "bottom": 1}
    with pytest.raises(ConfigError, match="branch: clients of a split model"):
        played(table)
