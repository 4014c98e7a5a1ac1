"""Graphs written by hand, as onnxruntime reads them; products with what codes stand for."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.onnx.graph import Graph
from fedloom.backbones.onnx.matrices import Codes, Floats, Matrix, Plain
from fedloom.backbones.onnx.proto import node, tensor, value
from fedloom.backbones.onnx.runner import Runner
from fedloom.backbones.schemes import pack
from fedloom.core.errors import ModelError


def product(weight: Matrix, x: Floats, bias: Floats | None) -> Floats:
    pytest.importorskip("onnxruntime")
    graph = Graph()
    fed = graph.fed("x", (1, "n", x.shape[-1]))
    y = graph.product(fed, weight, bias)
    found = Runner(graph.written(y, (1, "n", weight.shape[0])))({"x": x[None]})
    return np.asarray(found[0])


def halved(plain: Floats) -> NDArray[np.uint16]:
    """Bits of bfloat16, rounded towards zero."""
    return (plain.view(np.uint32) >> 16).astype(np.uint16)


# The bits of bfloat16 are the upper ones of float32: 1 is 0x3f80, and 0x4049 is 3.140625.
def test_floats_of_any_type_in_rows_and_parts() -> None:
    bits = Plain(np.array([[0x3F80, 0x4049], [0xBF80, 0]], dtype=np.uint16))
    assert bits.rows(slice(None)).tolist() == [[1.0, 3.140625], [-1.0, 0.0]]
    assert bits.part(slice(1, 2)).rows(np.array([0])).tolist() == [[-1.0, 0.0]]
    turned = Plain(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float16), turned=True)
    assert turned.shape == (3, 2)
    assert turned.part(slice(1, 3)).rows(np.array([1])).tolist() == [[3.0, 6.0]]


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "turned"])
def test_products_with_floats_as_they_lie(kind: str) -> None:
    draw = np.random.default_rng(0)
    plain = draw.normal(size=(48, 64)).astype(np.float32)
    laid: dict[str, NDArray[Any]] = {"bfloat16": halved(plain), "turned": plain.T}
    weight = Plain(laid[kind] if kind in laid else plain.astype(kind), turned=kind == "turned")
    x = draw.normal(size=(5, 64)).astype(np.float32)
    expected = x.astype(np.float64) @ weight.rows(slice(None)).astype(np.float64).T
    assert np.abs(product(weight, x, None) - expected).max() < 1e-6 * np.abs(expected).max()


def test_a_matrix_that_lies_at_no_multiple_of_its_numbers() -> None:
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    moved = np.frombuffer(b"!" + plain.tobytes(), dtype=np.uint8)[1:].view("<f4").reshape(2, 3)
    found = product(Plain(moved), np.ones((1, 3), dtype=np.float32), None)
    assert found.tolist() == [[3.0, 12.0]]


@pytest.mark.parametrize("name", SCHEMES)
def test_products_are_those_of_the_stored_matrix(name: str) -> None:
    draw = np.random.default_rng(0)
    plain = draw.normal(size=(48, 256)).astype(np.float32)
    packed = pack(torch.from_numpy(plain), SCHEMES[name])
    floats = (tensor.float().numpy() for tensor in packed.tensors[1:])
    weight = Codes(SCHEMES[name], packed.codes.numpy(), *floats)
    assert np.array_equal(weight.rows(slice(None)), packed.whole().numpy())
    assert np.array_equal(weight.rows(np.array([3, 1])), packed.whole().numpy()[[3, 1]])
    assert np.array_equal(weight.part(slice(2, 5)).rows(slice(None)), packed.whole().numpy()[2:5])
    x = draw.normal(size=(5, 256)).astype(np.float32)
    bias = draw.normal(size=48).astype(np.float32)
    expected = x.astype(np.float64) @ weight.rows(slice(None)).astype(np.float64).T + bias
    error = np.abs(product(weight, x, bias) - expected)
    assert error.max() < 1e-6 * np.abs(expected).max()


def test_bytes_of_messages() -> None:
    # The name "a" (field 1), then its type (2), which holds that of a tensor (1): float (1: 1), and
    # its shape (2) of two dimensions (1): of 3 (1), and of "n" (2).
    shape = "0a02" + "0803" + "0a03" + "12016e"
    kind = "120f" + "0a0d" + "0801" + "1209" + shape
    assert value("a", "float32", (3, "n")).hex() == "0a0161" + kind
    made = b"".join(tensor("w", np.array([1.0], dtype=np.float32)))
    assert made.hex() == "0801" + "1001" + "420177" + "4a04" + "0000803f"
    assert node(("", "Add"), ("a", "b"), "c", {}).hex() == (
        "0a0161" + "0a0162" + "120163" + "1a0163" + "2203416464" + "3a00"
    )


def test_a_graph_that_cannot_run() -> None:
    pytest.importorskip("onnxruntime")
    graph = Graph()
    out = graph.apply("NoSuchOperator", (graph.fed("x", ("n",)),))
    with pytest.raises(ModelError, match=r"onnxruntime .*NoSuchOperator"):
        Runner(graph.written(out, ("n",)))


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    graph = Graph()
    with pytest.raises(ModelError, match="pip install onnxruntime"):
        Runner(graph.written(graph.fed("x", ("n",)), ("n",)))
