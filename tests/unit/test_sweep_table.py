import math
from dataclasses import replace
from pathlib import Path

from fedloom.sweep_table import as_csv, as_page, as_text, metrics_of, rows_of, write_table
from fedloom.sweeping import Outcome


def ended(adapter: str, seed: int, accuracy: float) -> Outcome:
    spent = {"bytes_up": 600.0, "bytes_down": 400.0, "simulated_seconds": 30.0, "joules": 500.0}
    settings = {"adapter.name": adapter, "seed": seed}
    return Outcome(settings, Path("x"), "finished", metrics={"accuracy": accuracy}, spent=spent)


REFUSED = Outcome({"adapter.name": "<none>", "seed": 0}, Path("x"), "refused", "no such adapter")
OUTCOMES = [ended("lora", 0, 0.5), ended("head", 0, 0.25), ended("lora", 1, 0.7), REFUSED]


def test_seeds_are_one_row_with_mean_and_deviation() -> None:
    lora, head, none = rows_of(OUTCOMES)
    assert (lora.settings, lora.runs) == ({"adapter.name": "lora"}, 2)
    # of 0.5 and 0.7: mean 0.6, sample deviation sqrt(2 * 0.1^2 / 1)
    assert math.isclose(lora.mean("accuracy"), 0.6)
    assert math.isclose(lora.deviation("accuracy"), math.sqrt(0.02))
    assert math.isnan(head.deviation("accuracy"))
    assert (none.values("accuracy"), none.runs, none.note) == ([], 0, "no such adapter")


def test_text_has_a_line_for_each_row() -> None:
    head, lora, one, none = as_text(OUTCOMES).splitlines()
    assert head.split()[:2] == ["adapter", "accuracy"]
    assert lora.split()[1:12] == [
        "60.0",
        "%",
        "14.1",
        "%",
        "2",
        "1.00",
        "kB",
        "30.0",
        "s",
        "500",
        "J",
    ]
    assert one.split()[:5] == ["head", "25.0", "%", "-", "1"]
    assert none.endswith("no such adapter")
    assert as_text([]) == ""


def test_csv_has_plain_numbers() -> None:
    lines = as_csv(OUTCOMES).splitlines()
    assert lines[0].startswith("adapter.name,accuracy_mean,accuracy_sd,runs,bytes_up")
    assert lines[2] == "head,0.25,,1,600.0,400.0,30.0,500.0,,,"
    assert lines[3] == "<none>,,,0,,,,,,,no such adapter"


def test_clients_own_models_have_columns_of_their_own() -> None:
    more = {"accuracy": 0.5, "clients_accuracy": 0.4, "clients_loss": 2.0}
    own = replace(OUTCOMES[0], metrics={**more, "clients_personal_accuracy": 0.6})
    without = replace(OUTCOMES[2], metrics=more)
    assert metrics_of([own, without]) == [
        "accuracy",
        "clients_accuracy",
        "clients_personal_accuracy",
    ]
    head, line = as_csv([own, without]).splitlines()
    assert head.startswith("adapter.name,accuracy_mean,accuracy_sd,clients_accuracy_mean,")
    # one of the two has models of clients' own
    assert line.startswith("lora,0.5,0.0,0.4,0.0,0.6,,2,")


def test_the_page_is_escaped_and_written(tmp_path: Path) -> None:
    assert "&lt;none&gt;" in as_page(OUTCOMES)
    page = write_table(OUTCOMES, tmp_path / "out")
    assert page.name == "report.html"
    assert "60.0 %" in page.read_text(encoding="utf-8")
    assert (tmp_path / "out" / "sweep.csv").read_text(encoding="utf-8") == as_csv(OUTCOMES)
