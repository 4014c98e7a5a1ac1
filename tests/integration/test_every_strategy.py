"""Every strategy with learners and codecs of every kind: it runs, or is refused beforehand.

Each once, with kinds that take turns; ``FEDLOOM_KILLS=1`` plays all combinations (a quarter of an
hour).
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import labelled_rows

import fedloom
from fedloom.core.errors import FedloomError
from fedloom.core.registry import BUILT_IN
from fedloom.progress import Quiet
from fedloom.results.observe import RoundLine

NEEDS: dict[str, dict[str, Any]] = {
    "feddyn": {"clients": 8},
    "scaffold": {"clients": 8},
    "fltrust": {"root": "c00"},
    "fedbfpt": {"layers": 3},
    "bbtv2": {"k": 5, "popsize": 4},
    "fed-bbpt": {"k": 5, "popsize": 4},
    "fedadapter": {"interval": 1.0},
}
PREFIX = {"adapter": {"name": "prefix", "tokens": 2}, "train": ["prefix"]}
KINDS: dict[str, dict[str, Any]] = {
    "backprop": {},
    "forwards": {"learner": {"name": "finite-difference", "directions": 4}},
    "split": {"split": {"mode": "v1", "bottom": 1, "labels": "far"}, "train": ["*"]},
    "keeping": {"keep": ["head"]},
    "forward-mode": {"learner": {"name": "forward-gradient", "directions": 4}},
    "pool": {"learner": {"name": "finite-difference", "scheme": "pool", "pool": 16}},
    "in turns": {"split": {"mode": "v2", "bottom": 1, "labels": "far"}, "train": ["*"]},
    "ditto": {"learner": "ditto"},
    "scaffold": {"learner": "scaffold"},
    "feddyn": {"learner": "feddyn"},
    "ifca": {"learner": "ifca"},
    "unlabelled": {
        "learner": "pseudo-labels",
        "data": {"unlabelled": True, "labels": 30, "label_clients": 6},
    },
    "answers": {"learner": "black-box", **PREFIX},
    "points": {"learner": {"name": "subspace-search", "k": 5, "popsize": 4}, **PREFIX},
}
CODECS = ("float32", "block-drop", "scalars", "int8", "nnadq", "bf16", "blockwise", "fp16")
STRATEGIES = tuple(BUILT_IN["strategies"])
ALL = "FEDLOOM_KILLS" in os.environ
FEW = itertools.cycle(itertools.product(list(KINDS)[:4], CODECS[:3]))
TURNS = ((strategy, *next(FEW)) for strategy in STRATEGIES)
PLAYED = list(itertools.product(STRATEGIES, KINDS, CODECS) if ALL else TURNS)


class Lines(Quiet):
    """Remembers the rounds."""

    def __init__(self) -> None:
        self.lines: list[RoundLine] = []

    def round_done(self, line: RoundLine) -> None:
        if line.round:
            self.lines.append(line)


def table_of(backbone: Path, strategy: str, kind: str, codec: str) -> dict[str, Any]:
    learner = KINDS[kind].get("learner")
    same = ("scheme", "pool") if isinstance(learner, dict) and codec == "scalars" else ()
    directions = {name: learner[name] for name in same if learner and name in learner}
    side = {"side": 4} if strategy in ("fedex-lora", "flora") else {}
    data = {"client": "client", "split": "split", **KINDS[kind].get("data", {})}
    return {
        "backbone": {"name": str(backbone), "max_tokens": 16, "head_init": "normal"},
        "adapter": {"name": "lora", "rank": 4, **side},
        "run": {"workers": 1, "cache_gb": 0.1, "cache_disk_gb": 0.0},
        "rounds": 2,
        "clients_per_round": 8,
        "local": {"lr": 0.1, "batch_size": 8},
        "evaluate": {"every": 2},
        "codec_up": {"name": codec, **directions},
        "strategy": {"name": strategy, **NEEDS.get(strategy, {})},
        **KINDS[kind],
        "data": data,
    }


@pytest.mark.parametrize(("strategy", "kind", "codec"), PLAYED)
def test_a_strategy_runs_or_is_refused_before_the_first_round(
    strategy: str, kind: str, codec: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table, seen = table_of(text_model["classify"], strategy, kind, codec), Lines()
    table["run"]["directory"] = str(tmp_path / "run")
    refused = ""
    try:
        run = fedloom.simulate(table, data=labelled_rows(96, clients=8), observer=seen)
    except FedloomError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert not seen.lines
        return
    assert [(line.accepted > 0, line.refused) for line in seen.lines] == [(True, 0)] * 2
    start = run.prepared.model.initial(run.prepared.job.seed).vector
    assert np.isfinite(run.params.vector).all()
    # FedAdapter takes the best of its groups' models, which may be the one that it began with.
    assert (run.params.vector != start).any() or strategy == "fedadapter"
