"""What a task takes without torch: weights in graphs by their format, and batches in passes."""

from pathlib import Path

import numpy as np
import pytest

from fedloom.backbones.folder import read_config
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.onnx.footprint import Footprint, footprint
from fedloom.backbones.onnx.weights import open_weights
from fedloom.backbones.quantize import quantize
from fedloom.backbones.shape import Shape, read_shape
from fedloom.tuning.onnx.fitting import ways_of
from fedloom.tuning.ways import Way

NUMBERS = 3 * (4 * 32 * 32 + 2 * 32 * 64)
"""Of the linear maps of three layers: 32 wide, 64 inside."""
# A scale is 4 bytes in a graph, of every 32 numbers or of a row: 4 * 32 + 64 + 32 of a layer's.
EXPECTED = {
    "": Footprint(4 * NUMBERS, 0, 0, 0),
    "int8": Footprint(4 * 3 * 224, NUMBERS, 4 * 32 * 64, 0),
    "int4-32": Footprint(NUMBERS // 2 + 4 * NUMBERS // 32, 0, 0, 0),
    "uint4-32": Footprint(NUMBERS // 2 + 8 * NUMBERS // 32, 0, 0, 0),
    "q8_0": Footprint(4 * NUMBERS // 32, NUMBERS, 4 * 32 * 64, 0),
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
    assert found == yet_to_be
    rows = shape.vocab * 32 * (32 if scheme is None else scheme.bits) // 8
    assert found.mapped == rows
    expected = EXPECTED[name]
    assert (found.constant, found.fed) == (expected.constant, expected.fed)
    assert found.unpacked == expected.unpacked


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
