import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.errors import CodecError
from fedloom.core.octets import Octets, integers, varint, varints


@given(st.lists(st.integers(0, 2**63 - 1), max_size=20))
def test_numbers_come_back(numbers: list[int]) -> None:
    octets = Octets(varints(numbers), "these")
    assert octets.varints(len(numbers)) == numbers
    octets.end()


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([], 0),
        ([1, -1, 1, 1, -1, 1, 1, 1, -1], 2),  # signs: a bit each
        ([0, 1, -1], 3),
        ([127, -128], 2),
        ([128, 0], 4),
        ([2**15, 0], 8),
        ([-(2**31), 2**31 - 1], 8),
        ([2**31, 0], 16),
        ([2**63 - 1, -(2**63)], 16),
    ],
)
def test_integers_take_as_few_bits_as_hold_them(values: list[int], size: int) -> None:
    packed = integers(np.array(values, dtype=np.int64))
    assert len(packed) == 1 + size
    octets = Octets(packed, "these")
    found = octets.integers(len(values))
    octets.end()
    assert found.dtype == np.int64
    assert found.tolist() == values


def test_a_small_number_is_one_byte() -> None:
    assert [len(varint(n)) for n in (0, 127, 128, 2**14 - 1, 2**14)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("data", "read", "match"),
    [
        (b"", lambda o: o.byte(), "these: 1 bytes more are said to come, 0 do"),
        (b"\x05ab", lambda o: o.count(), "5 things of 1 bytes are said to come in 2"),
        (b"\xff" * 12, lambda o: o.varint(), "a number of more than 63 bits"),
        (b"\x03", lambda o: o.integers(1), "integers of 3 bits"),
        (b"\x40" + bytes(7), lambda o: o.integers(1), "8 bytes more are said to come, 7 do"),
        (b"a", lambda o: o.end(), "1 bytes too many"),
        (b"a", lambda o: o.take(-1), "-1 bytes more"),
    ],
)
def test_what_is_not_there_is_refused(data: bytes, read: object, match: str) -> None:
    assert callable(read)
    with pytest.raises(CodecError, match=match):
        read(Octets(data, "these"))


def test_numbers_are_finite() -> None:
    with pytest.raises(CodecError, match="not finite") as refused:
        Octets(np.array([1.0, np.inf]).tobytes(), "these").doubles(2)
    assert refused.value.code == "not-finite"
