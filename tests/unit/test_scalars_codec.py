import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.codecs.frame import OVERHEAD, read_frame, write_frame
from fedloom.codecs.scalars import Scalars
from fedloom.core.errors import CodecError, ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import Delta, Payload

HEAD = TensorSpec("head", (3,), tags=frozenset({"head"}))
BODY = TensorSpec("lora", (2, 4))
LAYOUT = Layout((BODY, HEAD))  # the head last, as in models
MOVED, EXACT = Layout((BODY,)), Layout((HEAD,))
PLAIN = OVERHEAD + 12 + OVERHEAD + 3 * 4
"""Bytes of a frame without its scalars: worth and count, and the head in float32."""


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def delta(scalars: NDArray[np.int32], directions: Directions = Directions()) -> Delta:  # noqa: B008
    head = np.array([1.5, -2.0, 0.25], dtype=np.float32)
    return Delta(EXACT, head, Steps(MOVED, scalars, -0.125, directions))


@pytest.mark.parametrize(("bits", "size"), [(16, 10), (8, 5), (1, 1)])
def test_scalars_come_back_and_take_their_bits(bits: int, size: int) -> None:
    scalars = ints(1, -1, 1, 1, -1) if bits == 1 else ints(100, -127, 0, 7, -1)
    codec = Scalars(bits=bits)
    payload = codec.encode(delta(scalars))
    assert payload.nbytes == PLAIN + size
    found = codec.decode(payload, LAYOUT)
    assert found.steps is not None
    assert found.steps.scalars.tolist() == scalars.tolist()
    assert (found.steps.coefficient, found.steps.layout.names) == (-0.125, ("lora",))
    assert (found.layout.names, found.vector.tolist()) == (("head",), [1.5, -2.0, 0.25])


@pytest.mark.parametrize("scheme", ["pool", "candidates"])
def test_of_many_directions_those_used_are_sent_with_their_numbers(scheme: str) -> None:
    codec = Scalars(scheme=scheme, pool=100)
    scalars = np.zeros(100, dtype=np.int32)
    scalars[[3, 99]] = 5, -6
    payload = codec.encode(delta(scalars, codec.directions))
    assert payload.nbytes == PLAIN + 2 * (2 + 2)
    found = codec.decode(payload, LAYOUT)
    assert found.steps is not None
    assert found.steps.scalars.tolist() == scalars.tolist()


def test_a_delta_without_steps_goes_whole_in_the_models_order() -> None:
    vector = np.arange(11, dtype=np.float32)
    codec = Scalars()
    found = codec.decode(codec.encode(Delta(LAYOUT, vector)), LAYOUT)
    assert found.steps is None
    back = LAYOUT.scatter(np.zeros(11, dtype=np.float32), found.layout, found.vector)
    assert back.tolist() == vector.tolist()


def test_a_model_without_a_head_has_nothing_exact() -> None:
    codec = Scalars()
    steps = Steps(MOVED, ints(4, 5), 0.5, Directions())
    none = Delta(Layout(()), np.zeros(0, dtype=np.float32), steps)
    found = codec.decode(codec.encode(none), MOVED)
    assert found.layout.size == 0
    assert found.steps is not None
    assert found.steps.scalars.tolist() == [4, 5]


def test_the_rest_in_half_the_bytes() -> None:
    sizes = [Scalars(rest=rest).encode(delta(ints(1))).nbytes for rest in ("float32", "bf16")]
    assert sizes[0] - sizes[1] == 3 * 2
    assert Scalars(rest="bf16").error_bound(delta(ints(1))) > 0
    assert Scalars().error_bound(delta(ints(1))) == 0


@pytest.mark.parametrize(
    ("codec", "scalars", "match"),
    [
        (Scalars(bits=8), ints(128), "a scalar of 128 steps; 8 bits hold 127"),
        (Scalars(bits=16), ints(-40000), "a scalar of 40000 steps; 16 bits hold 32767"),
        (Scalars(scheme="shared"), ints(1), "give learner and codec the same options"),
    ],
)
def test_what_cannot_be_said(codec: Scalars, scalars: NDArray[np.int32], match: str) -> None:
    with pytest.raises(CodecError, match=match):
        codec.encode(delta(scalars))


def test_a_number_beside_them_that_is_not_finite() -> None:
    wrong = Delta(EXACT, np.array([np.nan, 0, 0], dtype=np.float32))
    with pytest.raises(CodecError, match="finite"):
        Scalars().encode(wrong)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bits": 4}, "bits = 4: 1, 8 or 16"),
        ({"rest": "int8"}, "rest = 'int8': float32 or bf16"),
        ({"scheme": "own"}, "scheme = 'own'"),
        ({"pool": 0}, "pool = 0: 1 to 65536"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Scalars(**options)  # type: ignore[arg-type]


def reframed(payload: Payload, change: bytes, at: int) -> Payload:
    """A payload with other bytes in its body, and a checksum that fits."""
    order = Layout((HEAD, BODY))
    body = bytearray(read_frame(payload, "scalars", order))
    body[at : at + len(change)] = change
    return write_frame("scalars", order, bytes(body))


@pytest.mark.parametrize(
    ("change", "at", "match"),
    [
        (b"\xff\xff\xff\x7f", 8, "scalars in"),  # two billion of them
        (b"\x00\x00\x00\x00\x00\x00\xf8\x7f", 0, "worth nan"),
        (b"\x64\x00", 12, "outside the pool of 100"),
        (b"\x63\x00", 12, "or twice"),
    ],
)
def test_what_no_client_of_ours_sends(change: bytes, at: int, match: str) -> None:
    codec = Scalars(scheme="pool", pool=100)
    scalars = np.zeros(100, dtype=np.int32)
    scalars[[3, 99]] = 5, -6
    payload = codec.encode(delta(scalars, codec.directions))
    with pytest.raises(CodecError, match=match):
        codec.decode(reframed(payload, change, at), LAYOUT)


def test_a_frame_that_is_cut() -> None:
    payload = Scalars().encode(delta(ints(1, 2, 3)))
    for size in range(payload.nbytes):
        with pytest.raises(CodecError):
            Scalars().decode(Payload("scalars", payload.frame[:size]), LAYOUT)
