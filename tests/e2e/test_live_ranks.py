"""A live federation whose devices have parts of the rank and prune them: the simulator's bits.

The server is killed on the way. What comes down is as large as the ranks say.
"""

import json
from pathlib import Path

from live_processes import Fleet, era_rows, table_of

CLIENTS, ROUNDS = 2, 3
STAGE = {
    "name": "own",
    "rounds": ROUNDS,
    "clients_per_round": CLIENTS,
    "strategy": {"name": "hetlora", "ranks": [[2, 0.5], [4, 0.5]]},
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "steps": 3},
}
LEARNER = {"name": "hetlora", "decay": 0.5, "price": 2.0}


def test_the_simulators_bits_with_ranks_that_shrink(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS, stages=[STAGE], learner=LEARNER)
    table["codec_down"] = "int8"  # a cut model is rounded in other blocks than the whole one
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.play("updates-folded")
    fleet.compare()
    ranks = [line["metrics"]["rank"] for line in fleet.lines() if line["round"]]
    assert ranks[-1] < ranks[0]
    down = {run: bytes_down(tmp_path / run) for run in ("live", "simulated")}
    assert down["live"] == down["simulated"]
    assert down["live"][-1] < down["live"][0]


def bytes_down(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["bytes_down"] for line in lines if line["round"]]
