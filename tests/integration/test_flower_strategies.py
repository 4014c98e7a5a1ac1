"""Flower's strategies in simulated rounds: learning, resuming, codecs, and one's own."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("flwr")

from flower_strategies import (
    FEW,
    OLD,
    OPTIONS,
    OPTIONS_OLD,
    OWN,
    OWN_OLD,
    REFUSED,
    REFUSED_OLD,
    component,
)
from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of

import fedloom
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, StrategyError
from fedloom.core.registry import create
from fedloom.progress import Quiet
from fedloom.results.observe import RoundLine
from fedloom.simulation.simulator import Run
from fedloom.strategies.base import Strategy
from fedloom.strategies.conformance import check_strategy


def table_with(model: Path, strategy: Any, **changes: Any) -> dict[str, Any]:
    table = classify_table(model, **changes)
    table["stages"] = [{**table["stages"][1], "rounds": 4}]
    if strategy is not None:
        table["stages"][0]["strategy"] = strategy
    else:
        del table["stages"][0]["strategy"]
    return table


def simulate(table: dict[str, Any], folder: Path, **keys: Any) -> Run:
    table = {**table, "run": {**table["run"], "directory": str(folder)}}
    keys = {"observer": Quiet(), **keys}
    return fedloom.simulate(table, data=labelled_rows(240, clients=12), **keys)


class StopsAfter(Quiet):
    def round_done(self, line: RoundLine) -> None:
        if line.round == 2:
            raise KeyboardInterrupt


def test_every_strategy_that_flower_ships_is_run_or_refused() -> None:
    import flwr.server.strategy
    import flwr.serverapp.strategy

    ships = set(flwr.serverapp.strategy.__all__) - {"Strategy", "Result"}
    assert ships == OPTIONS.keys() | REFUSED.keys()
    assert (
        set(flwr.server.strategy.__all__) - {"Strategy"} == OPTIONS_OLD.keys() | REFUSED_OLD.keys()
    )


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"QFedAvg"}))
def test_what_flower_ships_conforms(name: str) -> None:
    check_strategy(cast(Strategy, create("strategies", component(name))))


@pytest.mark.parametrize("name", sorted(OPTIONS_OLD.keys() - {"Bulyan"}))
def test_what_is_older_conforms(name: str) -> None:
    older = Component(f"flwr:{OLD}:{name}", OPTIONS_OLD[name])
    check_strategy(cast(Strategy, create("strategies", older)))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_trees_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[name]):
        create("strategies", Component(f"flwr:{name}"))


@pytest.mark.parametrize("name", sorted(REFUSED_OLD))
def test_what_is_older_and_not_of_tensors_is_refused(name: str) -> None:
    options, why = REFUSED_OLD[name]
    with pytest.raises(ConfigError, match=why):
        create("strategies", Component(f"flwr:{OLD}:{name}", options))


def test_newer_and_older_do_not_wrap_each_other() -> None:
    name = "DifferentialPrivacyServerSideFixedClipping"
    inside = {"strategy": {"name": f"flwr:{OLD}:FedAvg"}}
    with pytest.raises(ConfigError, match="FixedClipping wraps strategies of its own kind"):
        create("strategies", Component(f"flwr:{name}", {**OPTIONS[name], **inside}))


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "Bulyan"])
def test_older_and_newer_say_the_same(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    newer = table_with(text_model["classify"], {"name": f"flwr:{name}", **OPTIONS[name]})
    named = {"name": f"flwr:{OLD}:{name}", **OPTIONS_OLD[name]}
    older = table_with(text_model["classify"], named)
    if name == "FedAdagrad":  # defaults may differ
        for table in (newer, older):
            table["stages"][0]["strategy"] |= {"eta": 0.1, "tau": 0.01}
    one, two = simulate(newer, tmp_path / "newer"), simulate(older, tmp_path / "older")

    np.testing.assert_allclose(one.params.vector, two.params.vector, rtol=1e-4, atol=1e-4)


def test_flowers_average_is_ours(text_model: dict[str, Path], tmp_path: Path) -> None:
    ours = simulate(table_with(text_model["classify"], "fedavg"), tmp_path / "ours")
    theirs = simulate(table_with(text_model["classify"], "flwr:FedAvg"), tmp_path / "theirs")

    # Float32 means of whole models, and fixed-point means of deltas.
    np.testing.assert_allclose(ours.params.vector, theirs.params.vector, rtol=1e-3, atol=1e-5)
    assert theirs.history["loss"][-1] == pytest.approx(ours.history["loss"][-1], abs=1e-4)


@pytest.mark.parametrize("name", ["FedAdam", "QFedAvg", "FedAvgM", "FedProx"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    options = {**OPTIONS[name], "fraction_train": 0.5}
    table = table_with(text_model["classify"], {"name": f"flwr:{name}", **options})
    simulate(table, tmp_path / "whole")

    simulate(table, tmp_path / "torn", observer=StopsAfter())
    simulate(table, tmp_path / "torn", resume=True)

    assert numbers_of(tmp_path / "torn") == numbers_of(tmp_path / "whole")
    assert tensors_of(tmp_path / "torn") == tensors_of(tmp_path / "whole")
    assert {line["accepted"] for line in numbers_of(tmp_path / "whole")[1:]} == {3}


def test_noise_is_the_same_after_resuming(text_model: dict[str, Path], tmp_path: Path) -> None:
    name = "DifferentialPrivacyServerSideAdaptiveClipping"
    table = table_with(text_model["classify"], {"name": f"flwr:{name}", **OPTIONS[name]})
    table["stages"][0]["clients_per_round"] = 5
    simulate(table, tmp_path / "whole")

    simulate(table, tmp_path / "torn", observer=StopsAfter())
    simulate(table, tmp_path / "torn", resume=True)

    assert tensors_of(tmp_path / "torn") == tensors_of(tmp_path / "whole")


@pytest.mark.parametrize("codec", ["int8", {"name": "block-drop", "rate": 0.5}])
def test_updates_are_decoded_and_completed(
    codec: Any, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_with(text_model["classify"], "flwr:FedAvg", codec_up=codec)
    run = simulate(table, tmp_path / "run")

    assert run.history["accepted"][-1] == 6
    assert run.history["loss"][-1] < run.history["loss"][1]


def test_a_strategy_in_a_file_of_ones_own(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slowed_strategy.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    named = {"name": "flwr:slowed_strategy:Slowed", "factor": 0.7}
    table = table_with(text_model["classify"], named)
    whole = simulate(table, tmp_path / "whole")
    simulate(table, tmp_path / "torn", observer=StopsAfter())
    simulate(table, tmp_path / "torn", resume=True)

    assert tensors_of(tmp_path / "torn") == tensors_of(tmp_path / "whole")
    assert "evaluate_loss" in numbers_of(whole.directory)[1]["metrics"]


def test_an_older_strategy_in_a_file_of_ones_own(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "older_strategy.py").write_text(OWN_OLD)
    monkeypatch.chdir(tmp_path)
    table = table_with(text_model["classify"], "flwr:older_strategy:Slowed")
    whole = simulate(table, tmp_path / "whole")
    simulate(table, tmp_path / "torn", observer=StopsAfter())
    simulate(table, tmp_path / "torn", resume=True)

    assert tensors_of(tmp_path / "torn") == tensors_of(tmp_path / "whole")
    metrics = numbers_of(whole.directory)[1]["metrics"]
    assert metrics["own_tensors"] == len(whole.params.layout.names)
    assert {"mean", "own_loss", "evaluate_mean", "evaluate_loss"} <= metrics.keys()


def test_an_object_in_the_place_of_a_name(text_model: dict[str, Path], tmp_path: Path) -> None:
    from flwr.serverapp.strategy import FedAdam

    table = table_with(text_model["classify"], "flwr:FedAdam")
    named = simulate(table, tmp_path / "named")
    given = simulate(table, tmp_path / "given", strategy=FedAdam())

    assert tensors_of(given.directory) == tensors_of(named.directory)
    with pytest.raises(ConfigError, match="strategy = object: expected a name, a table, or a"):
        simulate(table, tmp_path / "none", strategy=object())


def test_what_cannot_be_saved_runs_and_is_not_resumed(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    from flwr.serverapp.strategy import FedAvg

    class Holding(FedAvg):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.helper = Quiet()

    table = table_with(text_model["classify"], None)
    run = simulate(table, tmp_path / "whole", strategy=Holding())
    assert run.summary.rounds == 4

    simulate(table, tmp_path / "torn", strategy=Holding(), observer=StopsAfter())
    text = r"Holding holds objects that a checkpoint cannot.*cannot be resumed: helper \(Quiet\)"
    with pytest.raises(StrategyError, match=text):
        simulate(table, tmp_path / "torn", strategy=Holding(), resume=True)


def test_more_clients_than_the_cohort_has(text_model: dict[str, Path], tmp_path: Path) -> None:
    named = {"name": "flwr:FedAvg", "min_available_nodes": 9}
    with pytest.raises(StrategyError, match="min_available_nodes = 9: 6 or fewer"):
        simulate(table_with(text_model["classify"], named), tmp_path / "run")


def test_seeds_and_scalars_are_refused(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_with(text_model["classify"], {"name": "flwr:FedAvg", **FEW})
    table |= {"learner": "forward-gradient", "codec_up": "scalars"}
    table["stages"][0]["local"] = {"lr": 0.1, "steps": 2}
    text = "learner.send = 'scalars': 'tensors'; strategy 'flwr:FedAvg' takes whole deltas"
    with pytest.raises(ConfigError, match=text):
        simulate(table, tmp_path / "run")


def test_unknown_names_and_options() -> None:
    with pytest.raises(ConfigError, match=r"unknown name 'flwr:FedAdamm'.*did you mean 'FedAdam'"):
        create("strategies", Component("flwr:FedAdamm"))
    with pytest.raises(ConfigError, match=r"unknown option 'momentum'.*'server_momentum'"):
        create("strategies", Component("flwr:FedAvgM", {"momentum": 0.5}))
    with pytest.raises(ConfigError, match="eta = 'fast': expected a number"):
        create("strategies", Component("flwr:FedAdam", {"eta": "fast"}))
