"""What a task takes without torch: weights in graphs by their format, and batches in passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedloom.backbones.folder import read_config
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.onnx.chain import spans
from fedloom.backbones.onnx.footprint import Footprint, footprint
from fedloom.backbones.onnx.weights import open_weights
from fedloom.backbones.quantize import quantize
from fedloom.backbones.shape import Shape, read_shape
from fedloom.tuning.onnx.fitting import ways_of
from fedloom.tuning.ways import Way

NUMBERS = 3 * (4 * 32 * 32 + 2 * 32 * 64)
"""Of the linear maps of three layers: 32 wide, 64 inside."""
ROWS = 120 * 32
"""Of the embedding: 120 words."""
# A scale is 4 bytes, of every 32 numbers or of a row: 4 * 32 + 64 + 32 of a layer's. Four bits are
# constant, and so are their scales and least values; all else is fed.
EXPECTED = {
    "": Footprint(0, 4 * NUMBERS, 0, 4 * ROWS),
    "int8": Footprint(0, NUMBERS + 4 * 3 * 224, 4 * 32 * 64, ROWS + 4 * 120),
    "int4-32": Footprint(NUMBERS // 2 + NUMBERS // 8, 0, 0, ROWS // 2 + ROWS // 8),
    "uint4-32": Footprint(NUMBERS // 2 + NUMBERS // 4, 0, 0, ROWS // 2 + ROWS // 4),
    "q8_0": Footprint(0, NUMBERS + NUMBERS // 8, 4 * 32 * 64, ROWS + ROWS // 8),
}


@pytest.fixture
def folder(text_model: dict[str, Path]) -> Path:
    return text_model["classify"]


def shape_of(folder: Path) -> Shape:
    return read_shape(read_config(folder))


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_in_graphs(name: str, folder: Path, tmp_path: Path) -> None:
    shape, scheme = shape_of(folder), SCHEMES.get(name)
    assert (shape.width, shape.inner, shape.depth) == (32, 64, 3)
    yet_to_be = footprint(shape, open_weights(folder), scheme)
    if scheme is not None:
        quantize(folder, tmp_path / "small", scheme)
        folder = tmp_path / "small"
    found = footprint(shape, open_weights(folder))
    assert found == yet_to_be == EXPECTED[name]


def test_a_head_of_words_counts_the_embedding_once_where_it_is_fed(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    plain, small = text_model["causal-lm"], tmp_path / "small"
    config = read_config(plain)
    shape = replace(read_shape(config), tied=True)
    # Queries and output 32 x 32, keys and values 16 x 32, three maps of 32 x 48; two layers.
    numbers, rows = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48), 120 * 32
    found = footprint(shape, open_weights(plain), words=True)
    assert found == Footprint(0, 4 * (numbers + rows), 0, 0)
    quantize(plain, small, SCHEMES["int8"])
    scales = 4 * (2 * (32 + 16 + 16 + 32 + 48 + 48 + 32) + 120)
    found = footprint(shape, open_weights(small), words=True)
    assert found == Footprint(0, numbers + rows + scales, 4 * rows, 0)
    found = footprint(shape, open_weights(plain), SCHEMES["int4-32"], words=True)
    assert (found.words, found.mapped) == (rows * 5 // 8, rows * 5 // 8)


def test_constants_are_spread_over_graphs() -> None:
    # 24 MB in a graph: two layers of 10 MB each, or one of 30 MB.
    assert spans(range(5), 5, Footprint(50 * 10**6, 0, 0, 0)) == [
        range(2),
        range(2, 4),
        range(4, 5),
    ]
    assert spans(range(1, 3), 4, Footprint(120 * 10**6, 0, 0, 0)) == [range(1, 2), range(2, 3)]
    assert spans(range(6), 6, Footprint(0, 10**9, 0, 0)) == [range(6)]


def ways(folder: Path, lengths: int, batch: int, **more: int) -> list[Way]:
    told = {"directions": 8, "trained": 100, "size": 100, **more}
    plan = [np.arange(batch), np.arange(batch - 1)]
    empty = Footprint(0, 0, 0, 0)
    return ways_of(shape_of(folder), empty, np.full(batch, lengths), plan, **told)


def test_batches_in_passes_of_some_examples(folder: Path) -> None:
    # A pass has 256 tokens at most: 4 examples of 64.
    found = ways(folder, 64, 10)
    assert [(way.examples, way.parts, way.tokens) for way in found] == [
        (1, 10, 64),
        (2, 5, 128),
        (4, 3, 256),
    ]
    assert [way.bytes for way in found] == sorted(way.bytes for way in found)


def test_an_example_that_is_longer_than_a_pass(folder: Path) -> None:
    (way,) = ways(folder, 300, 4)
    assert (way.examples, way.parts, way.tokens) == (1, 4, 300)


def test_what_directions_take(folder: Path) -> None:
    # A direction is drawn, used and fed: 24 bytes of each number.
    (none,) = ways(folder, 300, 4, directions=0)
    (eight,) = ways(folder, 300, 4)
    assert eight.bytes - none.bytes == 24 * 8 * 100
