import numpy as np
import pytest

from fedloom.codecs.briefing import with_briefing, without_briefing
from fedloom.core.errors import CodecError

FRAME = b"FLD and what the model is"
ARRAYS: dict[str, np.ndarray] = {
    "guide": np.array([1.5, -2.0], dtype=np.float32),
    "odds": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "turn": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 4), dtype=np.float64),
}


def test_arrays_come_back_with_the_frame() -> None:
    frame, found = without_briefing(with_briefing(FRAME, ARRAYS))
    assert frame == FRAME
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tolist() == array.tolist()


def test_without_arrays_the_frame_is_as_it_was() -> None:
    assert with_briefing(FRAME, {}) is FRAME
    assert without_briefing(FRAME) == (FRAME, {})


def test_cut_anywhere_it_is_refused() -> None:
    whole = with_briefing(b"", ARRAYS)
    for size in range(4, len(whole)):
        with pytest.raises(CodecError, match="briefing"):
            without_briefing(whole[:size])


def test_what_is_said_to_come_takes_no_memory() -> None:
    whole = bytearray(with_briefing(FRAME, {"x": np.zeros(2, dtype=np.float32)}))
    whole[10:14] = b"\xff\xff\xff\xff"  # sixteen billion bytes
    with pytest.raises(CodecError, match="cut or damaged"):
        without_briefing(bytes(whole))


@pytest.mark.parametrize("wrong", [np.array(["a"]), np.zeros((1,) * 5), np.zeros(1, np.complex64)])
def test_arrays_that_cannot_travel(wrong: np.ndarray) -> None:
    with pytest.raises(CodecError, match="briefing 'x'"):
        with_briefing(FRAME, {"x": wrong})
