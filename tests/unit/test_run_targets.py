from pathlib import Path

import pytest

from fedloom.record import Record
from fedloom.results.history import History
from fedloom.results.observe import RoundLine
from fedloom.targets import target_cells, target_text


def run(name: str, *values: float, metric: str = "accuracy", modelled: bool = True) -> Record:
    """A round for each value; 10 s, 100 J and 500 bytes a round on the devices, 2 s of ours."""
    lines = [
        RoundLine(
            number,
            evaluation={metric: value},
            total_bytes_up=200 * number,
            total_bytes_down=300 * number,
            elapsed=2.0 * number,
            simulated_seconds=10.0 * number * modelled,
            total_joules=100.0 * number * modelled,
        )
        for number, value in enumerate(values)
    ]
    return Record(Path(name), {"name": name}, {}, History(lines), {}, {}, {})


def test_the_first_round_at_the_target_counts() -> None:
    rows = target_cells([run("a", 0.1, 0.4, 0.5, 0.45), run("b", 0.1, 0.2)], 0.5)
    assert rows[0] == ["a", "accuracy 50.0 %", "2", "20.0 s", "4.0 s", "1.00 kB", "200 J"]
    assert rows[1] == ["b", "accuracy", "-", "-", "-", "-", "-"]


def test_a_perplexity_falls_to_its_target() -> None:
    (row,) = target_cells([run("lm", 30.0, 21.0, 19.0, metric="perplexity")], 20.0)
    assert row[1:3] == ["perplexity 19", "2"]


def test_what_was_not_counted_is_a_dash() -> None:
    (row,) = target_cells([run("a", 0.9, modelled=False)], 0.5)
    assert (row[2], row[3], row[6]) == ("0", "-", "-")


@pytest.mark.parametrize("target", [0.0, 0.5])
def test_the_table_has_a_line_for_each_run(target: float) -> None:
    text = target_text([run("a", 0.1), run("longer", 0.6)], target)
    assert [line.split()[0] for line in text.splitlines()] == ["run", "a", "longer"]
