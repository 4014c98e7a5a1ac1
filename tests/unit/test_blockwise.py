import struct
import zlib

import numpy as np
import pytest

from fedloom.codecs.blockwise import Blockwise
from fedloom.codecs.conformance import check_codec
from fedloom.codecs.frame import write_frame
from fedloom.codecs.nnadq import Nnadq
from fedloom.core.errors import CodecError, ConfigError
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import Delta

LAYOUT = Layout((TensorSpec("a", (3,)), TensorSpec("b", (2,))))


def delta(*values: float) -> Delta:
    return Delta(LAYOUT, np.array(values, dtype=np.float32))


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def test_each_block_has_its_own_step() -> None:
    # 3 bits: L = 3. Block one reaches 3: a step of 1. Block two reaches 17.25, a third of which is
    # 5.75 = 1.0111b * 4: four significant bits hold 1.011b * 4 = 5.5, the next is 1.1b * 4 = 6.
    codec = Blockwise(bits=3, block=3)
    payload = codec.encode(delta(0.4, -3, 1.6, 17.25, 4))
    assert codec.decode(payload, LAYOUT).vector.tolist() == [0, -3, 2, 18, 6]


def test_zeros_stay_exact_zeros() -> None:
    for stochastic in (False, True):
        codec = Blockwise(bits=2, block=2, stochastic=stochastic)
        found = codec.decode(codec.encode(delta(0, 0, 0, 0.3, 0)), LAYOUT).vector
        assert found[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]


def test_the_frame_says_how_to_read_it() -> None:
    given = delta(1, 2, 3, 4, 5)
    payload = Blockwise(bits=5, block=2).encode(given)
    own = Blockwise(bits=5, block=2).decode(payload, LAYOUT).vector
    assert np.array_equal(Blockwise().decode(payload, LAYOUT).vector, own)


def test_stochastic_rounding_repeats_and_is_unbiased() -> None:
    layout = Layout((TensorSpec("a", (4001,)),))
    vector = np.full(layout.size, 0.3, dtype=np.float32)
    vector[0] = 7.0  # 4 bits: a step of 1
    codec, given = Blockwise(block=5000, stochastic=True), Delta(layout, vector)
    assert codec.encode(given, seed=3) == codec.encode(given, seed=3)
    assert codec.encode(given, seed=3) != codec.encode(given, seed=4)
    found = codec.decode(codec.encode(given, seed=3), layout).vector[1:]
    # Ones among 4000 draws at 0.3: standard deviation sqrt(.3 * .7 / 4000) = 0.0072.
    assert found.mean() == pytest.approx(0.3, abs=4 * 0.0072)


@pytest.mark.parametrize(("bits", "most"), [(2, 1), (2.6, 2), (3, 3), (4, 7), (8, 127)])
def test_levels_are_as_many_as_so_many_bits_hold_and_odd(bits: float, most: int) -> None:
    assert Blockwise(bits).most == most


def gaussian(size: int) -> Vector:
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def test_steps_cost_their_entropy() -> None:
    layout = Layout((TensorSpec("a", (200_000,)),))
    for bits in (2, 3, 4, 6):
        codec = Blockwise(bits)
        payload = codec.encode(Delta(layout, gaussian(layout.size)))
        found = codec.decode(payload, layout).vector.reshape(-1, 64)
        scales = np.abs(found).max(axis=1, keepdims=True) / codec.most
        steps = np.rint(found / scales).astype(int)
        share = np.bincount((steps + codec.most).ravel()) / steps.size
        entropy = -float((share[share > 0] * np.log2(share[share > 0])).sum())
        # Scales: three bits of mantissa and two of exponent, for 64 elements.
        assert payload.nbytes * 8 / layout.size < entropy + 0.05 + 5 / 64


@pytest.mark.parametrize("weight", [1e-1, 1e-2, 1e-3])
def test_it_is_more_accurate_than_nnadq_in_as_many_bytes(weight: float) -> None:
    # Two tensors of unlike size, as the layers' gradients are.
    layout = Layout((TensorSpec("a", (64_000,)), TensorSpec("b", (64_000,))))
    vector = gaussian(layout.size) * np.repeat(np.array([1e-2, 1e-1], dtype=np.float32), 64_000)
    given = Delta(layout, vector)
    theirs = Nnadq(weight).encode(given)
    ours, payload = next(
        (codec, payload)
        for codec in (Blockwise(bits / 4) for bits in range(32, 7, -1))
        if (payload := codec.encode(given)).nbytes <= theirs.nbytes
    )
    error = np.linalg.norm(ours.decode(payload, layout).vector - vector)
    assert error * 1.3 < np.linalg.norm(Nnadq(weight).decode(theirs, layout).vector - vector)


@pytest.mark.parametrize("bits", [2, 3.3, 4, 5, 8])
def test_promises_of_a_codec_are_kept(bits: float) -> None:
    for block in (1, 3, 64):
        check_codec(Blockwise(bits, block))
    check_codec(Blockwise(bits, stochastic=True))


def test_the_largest_floats_are_refused_by_name() -> None:
    with pytest.raises(CodecError, match="blockwise: tensor 'b': a value is too large"):
        Blockwise(block=3).encode(delta(1, 1, 1, 1, float(np.finfo(np.float32).max)))


@pytest.mark.parametrize(
    ("head", "planes", "message"),
    [
        ((0, 7), bytes(8), "blocks of 0 elements"),
        ((64, 0), bytes(8), "0 steps; 1 to 1048576, 1 to 127"),
        ((64, 128), bytes(8), "128 steps"),
        ((64, 127), bytes(8), "8 bytes in the entropy code; 7 expected"),
        ((64, 127), bytes(6), "6 bytes in the entropy code; 7 expected"),
        ((64, 127), bytes(10**7), "8 bytes in the entropy code; 7 expected"),
        ((64, 127), b"\x7f\x08" + bytes(5), "a mantissa of 8; 7 or less"),
        ((64, 127), b"\x7f\x00" + b"\xff" * 5, "a byte of 255; below 255"),
        ((64, 127), b"\xff\x00" + bytes(5), "is not finite"),
    ],
)
def test_frames_that_no_encoder_writes(head: tuple[int, int], planes: bytes, message: str) -> None:
    payload = write_frame("blockwise", LAYOUT, struct.pack("<IB", *head) + deflated(planes))
    with pytest.raises(CodecError, match=message):
        Blockwise().decode(payload, LAYOUT)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"abc", "a body of 3 bytes; 5 or more"),
        (struct.pack("<IB", 64, 127) + b"\xff\xff", "the entropy code is broken"),
        (struct.pack("<IB", 64, 127) + deflated(bytes(7)) + b"x", "in the entropy code"),
        (struct.pack("<IB", 64, 127) + deflated(bytes(7))[:-1], "in the entropy code"),
    ],
)
def test_a_broken_entropy_code_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Blockwise().decode(write_frame("blockwise", LAYOUT, body), LAYOUT)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bits = 1.5: .*2 to 8"):
        Blockwise(bits=1.5)
    with pytest.raises(ConfigError, match="block = 0"):
        Blockwise(block=0)
