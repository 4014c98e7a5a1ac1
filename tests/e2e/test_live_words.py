"""A live federation whose head starts as words: devices make it themselves, to the same bits."""

from pathlib import Path

from live_processes import Fleet, era_rows, table_of

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
        fleet.play()
    fleet.compare()
