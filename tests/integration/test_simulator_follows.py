"""What the simulator counts as sent down is what clients that follow the model would be sent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink, follow
from fedloom.core.checkpoint import load_state
from fedloom.core.layout import Layout
from fedloom.core.types import Params, State
from fedloom.progress import Quiet
from fedloom.results.history import History
from fedloom.simulation.held import SLOT
from fedloom.simulation.simulator import Run

ROUNDS, CLIENTS, ASKED = 9, 6, 2


def table_of(backbone: Path, folder: Path, scheme: str, **changes: Any) -> dict[str, Any]:
    agreed = {"scheme": scheme, "pool": 64}
    stage = {
        "name": "steps",
        "rounds": ROUNDS,
        "clients_per_round": ASKED,
        "local": {"lr": 0.05, "batch_size": 8, "steps": 1},
        "strategy": {"name": "zeroth-order"},
    }
    return classify_table(
        backbone,
        adapter={"name": "lora", "rank": 8},
        learner={"name": "finite-difference", "directions": 4, **agreed},
        codec_up={"name": "scalars", **agreed},
        stages=[stage],
        evaluate={"every": 99},
        run={"workers": 1, "cache_gb": 0.0, "cache_disk_gb": 0.0, "keep": 99}
        | {"directory": str(folder)},
        **changes,
    )


def simulate(table: dict[str, Any], observer: Any = None, **options: Any) -> Run:
    rows = labelled_rows(72, clients=CLIENTS)
    return fedloom.simulate(table, data=rows, observer=observer or Quiet(), **options)


def states_of(run: Run, start: Params) -> list[State]:
    """The state after each round, and the one before the first."""
    checkpoints = (run.directory / "checkpoints").glob("*")
    found = [load_state(path, start.layout)[0] for path in sorted(checkpoints)]
    return [State(start), *found]


def cohorts_of(run: Run) -> list[list[str]]:
    population = run.prepared.population
    found = (population.cohort(number, ASKED) for number in range(1, ROUNDS + 1))
    return [[client.id for client in cohort.clients] for cohort in found]


def bytes_down(history: History) -> list[int]:
    return [int(value) for value in history["bytes_down"]][1:]


@pytest.mark.parametrize("scheme", ["distinct", "shared", "pool"])
def test_clients_that_follow_have_the_bits_and_the_bytes(
    scheme: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    run = simulate(table_of(text_model["classify"], tmp_path / "run", scheme))
    start = run.prepared.model.initial(0)
    layout, counted = start.layout, []
    held = {f"c{i:02d}": (0, start) for i in range(CLIENTS)}
    states = states_of(run, start)
    for number, cohort in enumerate(cohorts_of(run)):
        model = Downlink(states[number], Float32(), layout, number=number, following=True)
        counted.append(0)
        for client in cohort:
            version, mine = held[client]
            form = model.form(version)
            counted[-1] += form.payload.nbytes
            base = mine if form.base is not None else None
            found = follow(start, Float32(), form.payload, layout, base=base, seed=0)
            assert found.params.vector.tobytes() == states[number].params.vector.tobytes()
            held[client] = (form.keeps, found.kept)
    assert bytes_down(run.history) == counted
    assert counted[0] == ASKED * (
        11 + -(-len(layout.specs) // 8)
    )  # everybody has the model that the seed gives
    assert sum(counted) < ROUNDS * ASKED * 4 * layout.size / 4


class StopsAfter(Quiet):
    """Presses Ctrl-C when a round is over."""

    def round_done(self, line: Any) -> None:
        if line.round == 5:
            raise KeyboardInterrupt


def test_a_resumed_run_counts_the_same(text_model: dict[str, Path], tmp_path: Path) -> None:
    tables = [table_of(text_model["classify"], tmp_path / name, "distinct") for name in "ab"]
    whole = simulate(tables[0])
    assert simulate(tables[1], StopsAfter()).summary.interrupted
    torn = simulate(tables[1], resume=True)
    assert bytes_down(torn.history) == bytes_down(whole.history)
    last = [sorted((r.directory / "checkpoints").glob("*"))[-1] for r in (whole, torn)]
    one, other = (load_file(path) for path in last)
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}
    assert one[f"slot/{SLOT}"].shape == (CLIENTS,)


def test_a_rounded_model_goes_down_whole(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path / "run", "distinct")
    run = simulate({**table, "codec_down": {"name": "bf16"}})
    layout: Layout = run.prepared.model.layout
    assert set(bytes_down(run.history)) == {ASKED * (28 + 2 * layout.size)}
    last = sorted((run.directory / "checkpoints").glob("*"))[-1]
    assert f"slot/{SLOT}" not in load_file(last)
    assert np.isfinite(run.params.vector).all()
