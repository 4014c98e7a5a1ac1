"""Graphs written by hand, as onnxruntime reads them; products with what codes stand for."""

import sys

import numpy as np
import pytest
import torch

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.onnx.graph import Graph
from fedloom.backbones.onnx.proto import node, tensor, value
from fedloom.backbones.onnx.runner import Runner
from fedloom.backbones.onnx.weights import Codes, Floats
from fedloom.backbones.schemes import pack
from fedloom.core.errors import ModelError


def product(weight: Floats | Codes, x: Floats, bias: Floats | None) -> Floats:
    pytest.importorskip("onnxruntime")
    graph = Graph()
    fed = graph.fed("x", (1, "n", x.shape[-1]))
    y = graph.product(fed, weight, bias)
    found = Runner(graph.written(y, (1, "n", len(weight_of(weight)))))({"x": x[None]})
    return np.asarray(found[0])


def weight_of(weight: Floats | Codes) -> Floats:
    return weight.rows(slice(None)) if isinstance(weight, Codes) else weight


@pytest.mark.parametrize("name", ["", *SCHEMES])
def test_products_are_those_of_the_stored_matrix(name: str) -> None:
    draw = np.random.default_rng(0)
    plain = draw.normal(size=(48, 256)).astype(np.float32)
    weight: Floats | Codes = plain
    if name:
        packed = pack(torch.from_numpy(plain), SCHEMES[name])
        floats = (tensor.float().numpy() for tensor in packed.tensors[1:])
        weight = Codes(SCHEMES[name], packed.codes.numpy(), *floats)
        assert np.array_equal(weight_of(weight), packed.whole().numpy())
        assert np.array_equal(weight.rows(np.array([3, 1])), packed.whole().numpy()[[3, 1]])
    x = draw.normal(size=(5, 256)).astype(np.float32)
    bias = draw.normal(size=48).astype(np.float32)
    expected = x.astype(np.float64) @ weight_of(weight).astype(np.float64).T + bias
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
