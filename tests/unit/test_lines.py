import math
from pathlib import Path

from fedloom.lines import closing, facts, numbers, sparkline
from fedloom.results.observe import RoundLine, RunInfo, Summary


def test_facts_leave_out_what_does_not_apply() -> None:
    info = RunInfo("x", Path(), 10, clients=2000, trainable=1234567, backbone="smollm2")
    assert facts(info) == "smollm2 · 2,000 clients · 1,234,567 trainable · 10 rounds"


def test_facts_say_where_a_run_goes_on() -> None:
    assert facts(RunInfo("x", Path(), 10, resumed_from=4)).endswith("resumed after round 4")


def test_numbers_of_a_round() -> None:
    line = RoundLine(
        3, loss=0.5, evaluation={"accuracy": 0.25}, total_bytes_up=2000, refused=1, accepted=9
    )
    assert numbers(line) == ["loss 0.5", "accuracy 25.0 %", "up 2.00 kB", "1 refused"]


def test_a_round_without_training_has_no_loss() -> None:
    assert numbers(RoundLine(0, evaluation={"perplexity": 20.0})) == ["perplexity 20"]


def test_a_sparkline_spans_its_values() -> None:
    # 0..7 over eight bars: one each
    assert sparkline([float(i) for i in range(8)]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([math.nan]) == ""
    assert len(sparkline([float(i) for i in range(500)])) == 32


def test_the_closing_summary_of_a_finished_run() -> None:
    summary = Summary(
        {"accuracy": 0.1},
        {"accuracy": 0.9, "loss": 0.25},
        40,
        75.0,
        Path("runs/a"),
        Path("runs/a/adapter"),
        references={"central": {"accuracy": 0.95}, "local": {"accuracy": 0.5}},
    )
    assert closing(summary) == [
        "finished: 40 rounds in 1 min 15 s",
        "  before     accuracy 10.0 %",
        "  federated  accuracy 90.0 %   loss 0.25",
        "  central    accuracy 95.0 %",
        "  local      accuracy 50.0 %",
        "  results    runs/a",
        "  adapter    runs/a/adapter",
    ]


def test_the_closing_summary_of_an_interrupted_run_says_how_to_go_on() -> None:
    rows = closing(Summary({}, {}, 3, 1.0, Path("runs/a"), interrupted=True))
    assert rows[0].startswith("interrupted: 3 rounds")
    assert rows[-1].endswith("--resume")
    summary = Summary({}, {}, 3, 1.0, Path("runs/a"), interrupted=True)
    assert closing(summary, resume="the same command goes on")[-1] == "  the same command goes on"


def test_what_only_clients_measured_is_shown() -> None:
    summary = Summary({}, {"clients_accuracy": 0.5, "other": 1.0}, 3, 1.0, Path("runs/a"))
    assert closing(summary)[1] == "  federated  clients' accuracy 50.0 %"
    assert numbers(RoundLine(0, evaluation={"clients_loss": 2.0})) == ["clients' loss 2"]


def test_a_model_without_a_known_metric_has_no_row() -> None:
    assert len(closing(Summary({}, {"other": 1.0}, 3, 1.0, Path("runs/a")))) == 2


def test_what_the_devices_took_is_a_row_where_it_was_counted() -> None:
    spent = {"simulated_seconds": 75.0, "joules": 4000.0, "eta_e": 2.5, "granularity": 0.5}
    summary = Summary({}, {}, 4, 1.0, Path("runs/a"), spent=spent)
    row = "  devices    1 min 15 s   4.00 kJ   2.5 tokens/J   T_comp/T_comm 0.5"
    assert closing(summary)[1] == row
    uncounted = Summary({}, {}, 4, 1.0, Path("runs/a"), spent={"tokens": 9.0})
    assert closing(uncounted)[1].startswith("  results")


def test_a_round_says_what_the_devices_took_so_far() -> None:
    line = RoundLine(3, simulated_seconds=90.0, total_joules=1500.0)
    assert numbers(line) == ["devices 1 min 30 s", "1.50 kJ"]
