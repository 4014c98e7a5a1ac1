from pathlib import Path

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import job_from
from fedloom.grid import Grid, asked, folder_name, grid_of, short, sweeps


def written(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path)


def test_every_combination_comes_once_the_last_key_fastest(tmp_path: Path) -> None:
    text = 'rounds = 3\n[sweep]\nseed = [0, 1]\nadapter.name = ["lora", "head"]\n'
    grid = grid_of(written(tmp_path, text))
    assert grid.table == {"rounds": 3}
    pairs = [(s["seed"], s["adapter.name"]) for s in grid]
    assert pairs == [(0, "lora"), (0, "head"), (1, "lora"), (1, "head")]
    assert len(grid) == 4


def test_lists_of_the_command_line_win(tmp_path: Path) -> None:
    source = written(tmp_path, "[sweep]\nseed = [0, 1]\n")
    grid = grid_of(source, ["local.lr=0.5"], ["seed=7", "rounds=1,2"])
    assert dict(grid.values) == {"seed": [7], "rounds": [1, 2]}
    assert grid.fixed == {"local": {"lr": 0.5}}


def test_a_grid_may_lie_over_another_configuration(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text("rounds = 9\nclients_per_round = 4\n")
    grid = grid_of(written(tmp_path, 'base = "below.toml"\nrounds = 2\n[sweep]\nseed = [0]\n'))
    assert grid.table == {"rounds": 2, "clients_per_round": 4}
    assert grid_of("tiers", [], ["seed=0,1"]).table["name"] == "tiers"


def test_what_it_lies_over_may_lie_over_another_and_vary(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text('base = "own-heads.toml"\nrounds = 9\n')
    (tmp_path / "own-heads.toml").write_text('base = "local-heads"\nclients_per_round = 4\n')
    variants = '["below.toml", "tiers", { name = "one", base = "below.toml", keep = [] }]'
    grid = grid_of(written(tmp_path, f"rounds = 2\n[sweep]\nbase = {variants}\n"))
    below, tiers, one = (grid.under(settings) for settings in grid)
    assert (below["rounds"], below["clients_per_round"], below["keep"]) == (2, 4, ["head"])
    assert (tiers["rounds"], tiers["name"]) == (2, "tiers")
    assert {**below, "name": "one", "keep": []} == one
    assert [short(settings["base"]) for settings in grid] == ["below.toml", "tiers", "one"]
    over = written(tmp_path, 'base = "peft-grid"\n[sweep]\nseed = [7]\n')
    assert grid_of(over).values == {**grid_of("peft-grid").values, "seed": [7]}


@pytest.mark.parametrize("name", sorted(sweeps()))
def test_packaged_sweeps_are_jobs(name: str) -> None:
    grid = grid_of(name)
    assert len(grid) > 1
    assert job_from(grid.table).name == name


def test_values_are_toml_or_plain_strings() -> None:
    assert asked("a=1, 0.5,true") == ("a", [1, 0.5, True])
    assert asked('a={ name = "lora", rank = 4 },"head"') == (
        "a",
        [{"name": "lora", "rank": 4}, "head"],
    )
    assert asked("a=lora,head") == ("a", ["lora", "head"])


def test_a_folders_name_is_of_the_values_alone() -> None:
    settings = {"adapter": {"name": "lora", "targets": ["q/../k"]}, "seed": 1}
    name = folder_name(settings)
    assert name == folder_name(dict(settings))
    assert name != folder_name({**settings, "seed": 2})
    assert "/" not in name
    assert len(folder_name({"a": "x" * 500})) < 100
    assert short({"name": "lora", "rank": 4}) == "lora rank=4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 1\n", "sweep: nothing varies"),
        ("[sweep]\nseed = 1\n", r"sweep.seed = 1: expected a list"),
        ("[sweep]\nseed = []\n", r"sweep.seed = \[\]: expected a list"),
        ("sweep = 3\n", "sweep = 3: expected a table"),
        ("base = 3\n[sweep]\nseed = [1]\n", "base = 3: expected a file"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_of(written(tmp_path, text))


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"peft-gird: no such file, sweep or recipe; .*peft-grid"):
        grid_of("peft-gird")
    with pytest.raises(ConfigError, match="expected key=value,value"):
        asked("local.lr")


def test_a_sweep_is_bounded() -> None:
    many = list(range(40))
    with pytest.raises(ConfigError, match="1600 combinations; at most 1000"):
        Grid({}, {"seed": many, "rounds": many})
