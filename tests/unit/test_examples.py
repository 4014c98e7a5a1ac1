import numpy as np
import pytest

from fedloom.core.errors import DataError
from fedloom.tuning.examples import ImageExamples, TextExamples

TEXTS = TextExamples(
    tokens=np.array([1, 2, 3, 4, 5, 6], np.int32),
    offsets=np.array([0, 2, 2, 6]),  # [1 2], [], [3 4 5 6]
    labels=np.array([7, 8, 9]),
    prompt_lengths=np.array([1, 0, 2], np.int32),
)


def test_texts_are_taken_in_the_order_asked_and_twice_if_asked() -> None:
    taken = TEXTS.take(np.array([2, 0, 1, 2]))
    assert taken.tokens.tolist() == [3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    assert taken.offsets.tolist() == [0, 4, 6, 6, 10]
    assert taken.labels is not None
    assert taken.prompt_lengths is not None
    assert taken.labels.tolist() == [9, 7, 8, 9]
    assert taken.prompt_lengths.tolist() == [2, 1, 0, 2]


def test_lengths_count_tokens() -> None:
    assert TEXTS.lengths().tolist() == [2, 0, 4]
    assert len(TEXTS) == 3


def test_nothing_can_be_taken() -> None:
    empty = TEXTS.take(np.zeros(0, np.int64))
    assert len(empty) == 0
    assert empty.tokens.dtype == np.int32


def test_images_are_taken_and_all_cost_the_same() -> None:
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    images = ImageExamples(pixels, np.array([3, 4]))
    taken = images.take(np.array([1]))
    assert taken.pixels.tolist() == [[[[4, 5], [6, 7]]]]
    assert taken.labels.tolist() == [4]
    assert images.lengths().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("tokens", "labels", "prompts", "message"),
    [
        (np.zeros(2, np.int64), None, None, r"tokens: expected int32 \[2\], found int64 \[2\]"),
        (np.zeros(3, np.int32), None, None, r"tokens: expected int32 \[2\], found int32 \[3\]"),
        (np.zeros(2, np.int32), np.zeros(2, np.int64), None, r"labels: expected int64 \[1\]"),
        (np.zeros(2, np.int32), None, np.zeros(1, np.int64), r"prompt_lengths: expected int32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tokens: np.ndarray, labels: np.ndarray, prompts: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TextExamples(tokens, np.array([0, 2]), labels, prompts)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"pixels: expected .* found uint8 \[2, 3, 3\]"):
        ImageExamples(np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(DataError, match=r"labels: expected int64 \[2\], found int64 \[1\]"):
        ImageExamples(np.zeros((2, 1, 3, 3), np.uint8), np.zeros(1, np.int64))
