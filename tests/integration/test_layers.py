"""``fedloom layers``: scores of a cohort's data, and the line that comes of them."""

from pathlib import Path

import pytest
from small_jobs import labelled_rows, write_rows, write_toml

from fedloom.cli import main
from fedloom.core.errors import ConfigError
from fedloom.progress import Quiet
from fedloom.simulation.layers import LayerChoice, choose_layers
from fedloom.sources import job_of


@pytest.fixture
def config(text_model: dict[str, Path], tmp_path: Path) -> str:
    table = {
        "backbone": {"name": str(text_model["classify"]), "max_tokens": 32},
        "data": {"path": "all.jsonl", "client": "client", "split": "split"},
        "adapter": {"name": "prefix", "tokens": 2},
        "run": {"workers": 1},
        "clients_per_round": 4,
        "local": {"batch_size": 4},
    }
    write_rows(tmp_path / "all.jsonl", labelled_rows())
    write_toml(tmp_path / "job.toml", table)
    return str(tmp_path / "job.toml")


def chosen(config: str, share: float, end: str) -> LayerChoice:
    return choose_layers(job_of(config), Quiet(), share=share, end=end)


def test_either_end_of_the_scores_is_shared(config: str) -> None:
    high, low = chosen(config, 0.3, "highest"), chosen(config, 0.3, "lowest")
    assert high.scores == low.scores
    by_score = sorted(high.scores, key=lambda layer: high.scores[layer])
    assert (low.shared, high.shared) == ((by_score[0],), (by_score[-1],))
    assert set(high.kept) == set(by_score[:-1])
    assert chosen(config, 1.0, "lowest").keep == "keep = []"


def test_the_command_prints_the_line_for_the_configuration(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layers", config, "--share", "0.3"]) == 0
    told = capsys.readouterr()
    expected = chosen(config, 0.3, "lowest")
    assert told.out == expected.keep + "\n"
    assert told.err.count("kept") == len(expected.kept)
    # The line is one that a job takes.
    assert main(["layers", config, "--set", expected.keep.replace(" = ", "=")]) == 0


@pytest.mark.parametrize(
    ("share", "end", "text"),
    [(0.0, "highest", "share = 0"), (0.5, "middle", "end = 'middle': one of highest, lowest")],
)
def test_what_cannot_be_chosen(config: str, share: float, end: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        chosen(config, share, end)
