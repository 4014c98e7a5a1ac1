import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.codecs.blockwise import Blockwise
from fedloom.codecs.dense import BFloat16, Float16, Float32
from fedloom.codecs.frame import write_frame
from fedloom.codecs.nnadq import Nnadq
from fedloom.codecs.quantized import Int8
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta

CODECS = [
    *(Float32(), BFloat16(), Float16(), Int8(block=4), Int8(block=3, stochastic=True)),
    *(Blockwise(2, block=4), Blockwise(6.5, block=3, stochastic=True)),
]

# Everything that float16, the narrowest of them, can hold; subnormals included.
VECTORS = arrays(np.float32, st.integers(0, 20), elements=st.floats(-65000, 65000, width=32))


@pytest.mark.parametrize("codec", CODECS, ids=str)
@given(vector=VECTORS, seed=st.integers(0, 2**63))
def test_what_comes_back_is_within_the_stated_bound(
    codec: Codec, vector: NDArray[np.float32], seed: int
) -> None:
    delta = Delta(Layout((TensorSpec("a", vector.shape),)), vector)
    payload = codec.encode(delta, seed=seed)
    back = codec.decode(payload, delta.layout)
    errors = np.abs(vector.astype(np.float64) - back.vector)
    assert errors.max(initial=0.0) <= codec.error_bound(delta)
    assert (back.vector[vector == 0] == 0).all()
    assert payload.nbytes == len(payload.frame)


@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
@given(vector=VECTORS)
def test_each_tensor_is_within_half_of_its_own_step(
    weight: float, vector: NDArray[np.float32]
) -> None:
    half = vector.size // 2
    layout = Layout((TensorSpec("a", (half,)), TensorSpec("b", (vector.size - half,))))
    delta, codec = Delta(layout, vector), Nnadq(weight)
    back = codec.decode(codec.encode(delta), layout)
    for spec in layout:
        own, there = layout.view(vector, spec.name), layout.view(back.vector, spec.name)
        bound = codec.error_bound(Delta(Layout((spec,)), own))
        assert np.abs(own.astype(np.float64) - there).max(initial=0.0) <= bound


@pytest.mark.parametrize("codec", [Blockwise(3, block=4), Nnadq(1e-2), Int8(block=4)], ids=str)
@given(data=st.data())
def test_a_changed_body_is_refused_or_decodes_to_finite_numbers(
    codec: Codec, data: st.DataObject
) -> None:
    layout = Layout((TensorSpec("a", (7, 9)), TensorSpec("b", (5,))))
    vector = np.linspace(-1, 1, layout.size, dtype=np.float32)
    body = bytearray(codec.encode(Delta(layout, vector)).frame[24:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = codec.decode(write_frame(codec.name, layout, bytes(body)), layout)
    except CodecError:
        return
    assert np.isfinite(back.vector).all()
    assert back.layout == layout


@pytest.mark.parametrize("codec", [BFloat16(), Int8(block=4), Blockwise(block=4)], ids=str)
@given(vector=arrays(np.float32, 8, elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_the_bound_holds_over_the_whole_range(codec: Codec, vector: NDArray[np.float32]) -> None:
    delta = Delta(Layout((TensorSpec("a", (8,)),)), vector)
    back = codec.decode(codec.encode(delta), delta.layout)
    errors = np.abs(vector.astype(np.float64) - back.vector)
    assert errors.max() <= codec.error_bound(delta)


@pytest.mark.parametrize("codec", [Float32(), BFloat16(), Float16()], ids=str)
@given(vector=VECTORS)
def test_a_decoded_delta_encodes_to_the_same_frame(
    codec: Codec, vector: NDArray[np.float32]
) -> None:
    layout = Layout((TensorSpec("a", vector.shape),))
    payload = codec.encode(Delta(layout, vector))
    assert codec.encode(codec.decode(payload, layout)) == payload
