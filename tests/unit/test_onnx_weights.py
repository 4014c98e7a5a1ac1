"""Files read by numpy alone: the numbers that torch reads, and damage that is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedloom.backbones.checkpoint import open_checkpoint
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.onnx.matrices import Codes
from fedloom.backbones.onnx.weights import open_weights
from fedloom.backbones.quantize import quantize
from fedloom.core.errors import ModelError

NAME = "encoder.layer.0.intermediate.dense.weight"


def test_every_type_of_number(tmp_path: Path) -> None:
    made = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 5, generator=made)
    kinds = {"f": torch.float32, "h": torch.float16, "b": torch.bfloat16, "d": torch.float64}
    tensors = {name: whole.to(dtype) for name, dtype in kinds.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = open_weights(tmp_path)
    for name, tensor in tensors.items():
        assert np.array_equal(found.get((name,), (3, 5)), tensor.float().numpy())


@pytest.mark.parametrize("name", ["int8", "int4-32", "uint4-32", "q8_0", "q4_0", "q4_1"])
def test_a_quantized_folder(name: str, text_model: dict[str, Path], tmp_path: Path) -> None:
    quantize(text_model["classify"], tmp_path / "small", SCHEMES[name])
    found = open_weights(tmp_path / "small")
    matrix = found.matrix((NAME,), (64, 32))
    assert isinstance(matrix, Codes)
    expected = open_checkpoint(tmp_path / "small", torch.device("cpu")).get((NAME,)).numpy()
    assert np.array_equal(matrix.rows(slice(None)), expected)
    found.release()
    assert np.array_equal(found.get((NAME,), (64, 32)), expected)
    with pytest.raises(ModelError, match=r"expected \(32, 64\)"):
        found.matrix((NAME,), (32, 64))


def test_a_damaged_tensor_is_named(text_model: dict[str, Path], tmp_path: Path) -> None:
    quantize(text_model["classify"], tmp_path / "small", SCHEMES["int8"])
    place = open_weights(tmp_path / "small").places[f"{NAME}.q"]
    for path in (tmp_path / "small").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        at = data.find(place.file[place.start : place.stop].tobytes())
        if at >= 0:
            data[at] ^= 1
            path.unlink()  # the mapped one stays as it was
            path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"tensor '{NAME}' is damaged"):
        open_weights(tmp_path / "small").matrix((NAME,), (64, 32))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"neither model\.safetensors"):
        open_weights(tmp_path)
    for data in (b"", b"\x00" * 8, b"\xff" * 16):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="cannot read"):
            open_weights(tmp_path)
    save_file({"w": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="shorter than its header says"):
        open_weights(tmp_path)


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no tensor 'v'"):
        open_weights(tmp_path).get(("v",), (4,))
    with pytest.raises(ModelError, match=r"expected \(5,\) from config.json, got \(4,\)"):
        open_weights(tmp_path).get(("w",), (5,))
