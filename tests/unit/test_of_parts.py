"""Strategies that a configuration puts together of others' parts."""

from pathlib import Path
from typing import Any

import pytest

from fedloom.core.component import Component
from fedloom.core.config import override
from fedloom.core.errors import ConfigError
from fedloom.core.job import job_from
from fedloom.core.registry import create
from fedloom.strategies import Adam, Composed, Constant, Sgd, WeightedMean, check_strategy, fedavg
from fedloom.strategies.coordinatewise import median, trimmed_mean
from fedloom.strategies.lora.means import rolora

OWN = """
class Votes:
    def add(self, total, update): ...
    def mean(self, params, total): ...
"""


def made(**parts: Any) -> Composed:
    strategy = create("strategies", Component("composed", parts))
    assert isinstance(strategy, Composed)
    return strategy


def test_without_parts_it_is_fedavg() -> None:
    assert made() == fedavg()


def test_each_part_is_that_of_a_strategy() -> None:
    parts = ["planner=rolora", "aggregator.name=trimmed-mean", "aggregator.f=2"]
    parts += ["optimizer.name=fedadam", "optimizer.lr=0.05"]
    table = override({}, ["strategy.name=composed", *(f"strategy.{part}" for part in parts)])
    (stage,) = job_from(table).stages
    adam = Adam(0.05, (0.9, 0.99), 1e-3)
    expected = Composed(rolora().planner, trimmed_mean(2).aggregator, adam)
    assert create("strategies", stage.strategy) == expected


def test_it_keeps_the_contract() -> None:
    check_strategy(made(aggregator="median", optimizer="fedyogi"))


def test_a_part_may_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_votes.py").write_text(OWN)
    strategy = made(aggregator="own_votes:Votes")
    assert type(strategy.aggregator).__name__ == "Votes"
    assert (strategy.planner, strategy.optimizer) == (Constant(), Sgd())
    text = (
        "optimizer = 'own_votes:Votes': expected a strategy that is made of three parts, or .*step"
    )
    with pytest.raises(ConfigError, match=text):
        made(optimizer="own_votes:Votes")


def test_options_are_of_the_part_that_is_taken() -> None:
    assert made(aggregator={"name": "median", "absent": "unchanged"}).aggregator == (
        median(absent="unchanged").aggregator
    )
    assert made(aggregator={"name": "median", "lr": 1.0}) == made(aggregator="median")  # as it is
    text = "aggregator = 'median': its aggregator has no use for the option 'lr'"
    with pytest.raises(ConfigError, match=text):
        made(aggregator={"name": "median", "lr": 0.5})


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"planner": "roolora"}, r"strategies: unknown name 'roolora'; .* mean 'rolora'\?"),
        ({"agregator": "median"}, r"unknown option 'agregator'; .* mean 'aggregator'\?"),
        ({"aggregator": {"name": "krum", "f": -1}}, "strategies.krum: f = -1: 0 or more"),
        ({"aggregator": {"name": "krum", "f": "x"}}, "strategies.krum.f = 'x': expected a whole"),
        ({"aggregator": "centred-clipping"}, "expected a strategy that is made of three parts"),
        ({"aggregator": "flexlora", "optimizer": "fedadam"}, "only SGD with lr = 1 goes there"),
    ],
)
def test_what_is_no_part_is_refused(parts: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=f"strategies.composed: .*{text}|composed: {text}"):
        made(**parts)


def test_the_mean_is_that_of_fedavg() -> None:
    assert made(aggregator={"name": "fedavg", "absent": "unchanged"}) == Composed(
        Constant(), WeightedMean("unchanged"), Sgd()
    )
