import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.codecs.dense import BFloat16, Float16, Float32
from fedloom.codecs.quantized import Int8
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta

CODECS = [Float32(), BFloat16(), Float16(), Int8(block=4), Int8(block=3, stochastic=True)]

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


@pytest.mark.parametrize("codec", [BFloat16(), Int8(block=4)], ids=str)
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
