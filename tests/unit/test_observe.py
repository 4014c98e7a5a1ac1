from pathlib import Path

import pytest

from fedloom.results.observe import Observers, RoundLine, RunInfo, Summary, spread, weighted


class Heard:
    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard = name, heard

    def started(self, info: RunInfo) -> None:
        self.heard.append(f"{self.name} started {info.name}")

    def round_done(self, line: RoundLine) -> None:
        self.heard.append(f"{self.name} round {line.round}")

    def note(self, text: str) -> None:
        self.heard.append(f"{self.name} note {text}")

    def finished(self, summary: Summary) -> None:
        self.heard.append(f"{self.name} finished {summary.rounds}")


def test_every_observer_is_told_in_order() -> None:
    heard: list[str] = []
    both = Observers([Heard("a", heard), Heard("b", heard)])
    both.started(RunInfo("job", Path(), 1))
    both.round_done(RoundLine(1))
    both.note("x")
    both.finished(Summary({}, {}, 1, 0.0, Path()))
    events = ["started job", "round 1", "note x", "finished 1"]
    assert heard == [f"{who} {event}" for event in events for who in "ab"]


def test_spread_counts_each_client_once() -> None:
    # 0, 1, 2, 3, 4 -> the quantile q lies at 4 q (linear between order statistics)
    table = spread({str(i): {"loss": float(i)} for i in range(5)})["loss"]
    assert (table["min"], table["p25"], table["median"], table["max"]) == (0, 1, 2, 4)
    assert table["p10"] == pytest.approx(0.4)
    assert table["p90"] == pytest.approx(3.6)
    assert (table["mean"], table["clients"]) == (2, 5)


def test_spread_takes_metrics_that_only_some_clients_have() -> None:
    table = spread({"a": {"loss": 1.0}, "b": {"loss": 3.0, "accuracy": 0.5}})
    assert table["accuracy"]["clients"] == 1
    assert table["loss"]["mean"] == 2


def test_spread_of_nobody_is_empty() -> None:
    assert spread({}) == {}


def test_means_over_clients_weigh_their_examples() -> None:
    # (3 * 0.5 + 1 * 1) / 4 = 0.625
    clients = {"a": {"accuracy": 0.5}, "b": {"accuracy": 1.0}}
    assert weighted(clients, {"a": 3, "b": 1}) == {"accuracy": 0.625}
    assert weighted({}, {}) == {}
