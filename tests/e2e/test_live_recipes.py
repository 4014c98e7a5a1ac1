"""Every recipe live: to the simulator's bits. Half a minute each: nightly.

``FEDLOOM_KILLS=1 pytest tests/e2e/test_live_recipes.py`` plays them all.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from live_processes import Fleet, era_rows, table_of

from fedloom.core.config import read_toml
from fedloom.core.job import STAGE_KEYS
from fedloom.sources import recipes

CLIENTS, ROUNDS = 2, 3
MORE = {"bulyan": 3, "multi-krum": 3}
"""Devices for rules that need them, when none of them is said to be malicious."""
# Devices say their kind, the simulator deals it out; stages have a test of their own.
NAMES = sorted(set(recipes()) - {"tiers", "petals"})
TURNS = ("fedbert", "splitfed-v2")
"""One copy far away, moved by batches as they come: whose comes first is nobody's to say."""


def job(name: str, models: dict[str, Path], folder: Path) -> dict[str, Any]:
    """A recipe's method, for a tiny model and two devices."""
    recipe = read_toml(recipes()[name])
    kept = {key: recipe[key] for key in ("learner", "codec_up", "split", "device") if key in recipe}
    task = recipe["backbone"].get("task", "classify")
    if "split" in kept:
        kept["split"]["bottom"] = min(kept["split"]["bottom"], 1)
    default = {key: recipe[key] for key in STAGE_KEYS if key in recipe}
    stages = [{**default, **stage} for stage in recipe.get("stages", [{}])]
    for stage in stages:
        stage |= {"rounds": ROUNDS, "clients_per_round": devices_of(name)}
        stage["local"] = {**stage["local"], "steps": min(stage["local"].get("steps", 1), 4)}
        if "layer" in str(stage.get("keep", "")):
            stage["keep"] = ["layer.0"]
        if "f" in stage["strategy"]:
            stage["strategy"] = {**stage["strategy"], "f": 0}
        if "root" in stage["strategy"]:
            stage["strategy"] = {
                **stage["strategy"],
                "root": min(row["client"] for row in era_rows(CLIENTS) if row["split"] == "train"),
            }
        if "patience" in stage["strategy"]:
            stage["strategy"] = {**stage["strategy"], "patience": 2}
        if "interval" in stage["strategy"]:  # a trial takes a round
            stage["strategy"] = {**stage["strategy"], "interval": 0.1, "expand": 0.0}
    adapter = {key: v for key, v in recipe["adapter"].items() if key != "layers"}
    table = table_of(models[task], devices_of(name), stages=stages, adapter=adapter, **kept)
    table["backbone"]["task"] = task
    if recipe.get("data", {}).get("unlabelled"):
        table["data"]["unlabelled"] = True
        table["backbone"]["head_init"] = recipe["backbone"]["head_init"]
        table["learner"]["after"] = 1  # round
    if "emulator" in recipe["backbone"]:
        emulator = {**recipe["backbone"]["emulator"], "folder": str(folder / "emulator")}
        table["backbone"]["emulator"], table["adapter"] = emulator, recipe["adapter"]
    return table


def devices_of(name: str) -> int:
    """How many devices play a recipe."""
    return MORE.get(name, CLIENTS)


def rows_for(table: dict[str, Any], clients: int = CLIENTS) -> list[dict[str, Any]]:
    """What devices train on: where the job keeps examples without a label, most have none."""
    rows = era_rows(clients)
    if not table["data"].get("unlabelled"):
        return rows
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (row["client"], row["label"])
        if row["split"] == "train" and seen[key] % 3:
            row["label"] = None
        seen[key] += 1
    return rows


@pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="minutes: of a nightly run")
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_live_has_the_simulators_bits(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = job(name, text_model, tmp_path)
    with Fleet.of(tmp_path, table, rows_for(table, devices_of(name))) as fleet:
        fleet.play()
    if name in TURNS:
        assert len(fleet.lines()) == ROUNDS + 1
    else:
        fleet.compare()


# In mid-round, with one of two updates written; when the groups are judged, and nothing is saved.
@pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="minutes: of a nightly run")
def test_groups_survive_a_servers_death(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = job("fedadapter", text_model, tmp_path)
    table["stages"][0]["strategy"]["depth"] = 1
    with Fleet.of(tmp_path, table, rows_for(table)) as fleet:
        fleet.play("update-acknowledged", "round-played:2", "update-announced")
    fleet.compare()
    # Two clients take turns in three groups: two play in the first round, one in the second.
    assert [line["accepted"] for line in fleet.lines()] == [0, 2, 1, 2]
    trials = {name for name in fleet.lines()[2]["metrics"] if name.startswith("trial/")}
    assert trials == {"trial/same", "trial/deeper", "trial/wider"}
