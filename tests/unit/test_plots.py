import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import synthetic_run

pytest.importorskip("matplotlib")

import matplotlib

from fedloom.curves import cost, learning, on_devices
from fedloom.plots import pictures
from fedloom.record import Record
from fedloom.results.history import History
from fedloom.results.observe import RoundLine
from fedloom.spreads import across_clients, partition, refusals
from fedloom.style import hues, styled


@pytest.fixture(autouse=True)
def _drawn_in_style() -> Iterator[None]:
    with styled():
        yield


def record(tmp_path: Path, name: str = "a", **options: Any) -> Record:
    return Record.read(synthetic_run(tmp_path / name, **options).path)


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and the uncompressed pixels of a PNG."""
    width, height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return width, height, zlib.decompress(data)


def test_every_picture_of_a_finished_run_shows_something(tmp_path: Path) -> None:
    drawn = pictures([record(tmp_path)])
    keys = ["learning", "cost", "devices", "clients", "partition", "refused"]
    assert [p.key for p in drawn] == keys
    for picture in drawn:
        width, height, raw = pixels(picture.png)
        assert width > 1500
        assert height > 400
        assert len(set(raw)) > 100  # antialiased lines and letters, not one colour
        assert picture.svg.lstrip().startswith(b"<?xml")


def test_an_unfinished_run_has_the_pictures_that_it_can_have(tmp_path: Path) -> None:
    keys = [p.key for p in pictures([record(tmp_path, done=3)])]
    assert keys == ["learning", "cost", "devices", "partition"]


def test_a_run_before_its_first_round_has_its_partition_only(tmp_path: Path) -> None:
    assert [p.key for p in pictures([record(tmp_path, done=-1)])] == ["partition"]


def test_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    both = [record(tmp_path, "a"), record(tmp_path, "b", done=9)]
    assert [p.key for p in pictures(both)] == ["learning", "cost", "devices", "clients"]
    drawn = learning(both)
    assert drawn is not None
    legend = drawn.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_references_are_level_lines_with_their_names(tmp_path: Path) -> None:
    drawn = learning([record(tmp_path)])
    assert drawn is not None
    texts = {text.get_text() for text in drawn.axes[0].texts}
    assert {"before", "central", "local", "warm-up", "train"} <= texts


def test_a_language_model_is_shown_by_its_perplexity(tmp_path: Path) -> None:
    lines = [RoundLine(n, loss=2.0, evaluation={"perplexity": 20.0 - n}) for n in (1, 2)]
    drawn = learning([replace(record(tmp_path), history=History(lines), summary={})])
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["Perplexity", "Loss"]


def test_cost_has_a_unit_that_fits(tmp_path: Path) -> None:
    one = record(tmp_path)
    drawn = cost([one])
    assert drawn is not None
    # 24 rounds: 283 MB, 36 s; 984 seconds and 7200 joules on the devices
    assert [axes.get_xlabel() for axes in drawn.axes] == ["MB", "seconds"]
    drawn = on_devices([one])
    assert drawn is not None
    assert [axes.get_xlabel() for axes in drawn.axes] == ["minutes", "kJ"]


def test_devices_without_energy_have_their_time_only(tmp_path: Path) -> None:
    lines = [RoundLine(1, evaluation={"accuracy": 0.5}, simulated_seconds=3.0)]
    timed = replace(record(tmp_path), history=History(lines))
    drawn = on_devices([timed])
    assert drawn is not None
    assert [axes.get_xlabel() for axes in drawn.axes] == ["seconds"]
    lines = [replace(lines[0], simulated_seconds=0.0)]
    assert on_devices([replace(timed, history=History(lines))]) is None


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    bare = replace(record(tmp_path), clients={}, partition={}, history=History())
    for draw in (across_clients, partition, refusals, learning, cost, on_devices):
        assert draw([bare]) is None


def test_a_partition_without_labels(tmp_path: Path) -> None:
    rows = [{"client": "a", "examples": 3, "labels": {}}]
    table = {"clients": 1, "sizes": [3], "largest": rows}
    drawn = partition([replace(record(tmp_path), partition=table)])
    assert drawn is not None
    assert drawn.axes[0].get_title(loc="left") == "Examples of the 1 largest clients"


def test_hues_are_apart() -> None:
    assert len(set(hues(77))) == 77
    assert hues(0) == []


def test_the_settings_of_matplotlib_are_left_as_they_were() -> None:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        with styled():
            assert matplotlib.rcParams["axes.grid"]
        assert not matplotlib.rcParams["axes.grid"]
