"""A live federation whose head starts as words: devices make it themselves, to the same bits."""

from pathlib import Path

from live_processes import Fleet, era_rows, table_of, tensors

from fedloom import simulate
from fedloom.progress import Quiet

CLIENTS, PATTERN = 2, "This is of the {text}."
LOCAL = {"lr": 0.1, "batch_size": 4, "steps": 3}
STAGES = [
    # the head is not among what comes down: it is each device's own
    {"name": "body", "rounds": 1, "clients_per_round": CLIENTS, "train": ["lora"], "local": LOCAL},
    {"name": "all", "rounds": 1, "clients_per_round": CLIENTS, "local": LOCAL},
]


def test_the_simulators_bits_with_a_head_of_words(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS, stages=STAGES)
    table["backbone"] |= {"head_init": "words", "pattern": PATTERN, "normalize": True}
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.serve()
        for client in fleet.clients:
            fleet.join(client)
        assert fleet.ended() == 0, fleet.logs()
        assert set(fleet.gone()) == {0}
    simulate(tmp_path / "job.toml", settings={"run.directory": tmp_path / "sim"}, observer=Quiet())
    assert tensors(tmp_path / "live") == tensors(tmp_path / "sim")
    assert fleet.lines() == fleet.lines("sim")
