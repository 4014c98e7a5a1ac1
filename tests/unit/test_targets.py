import numpy as np

from fedloom.tuning.examples import TextExamples
from fedloom.tuning.targets import next_tokens, packed_starts, padded_starts

# Texts [10 11 12], [20 21 22 23] with a prompt of two tokens, and [30].
TEXTS = TextExamples(
    np.array([10, 11, 12, 20, 21, 22, 23, 30], dtype=np.int32),
    np.array([0, 3, 7, 8], dtype=np.int64),
    prompt_lengths=np.array([0, 2, 0], dtype=np.int32),
)
ROWS = [np.array([1]), np.array([0, 2])]


def test_every_token_after_the_prompt_is_predicted_from_the_one_before() -> None:
    # Padded to four tokens and two examples each: client 0 at 0, client 1 at 8 and 12.
    places = next_tokens(TEXTS, ROWS, padded_starts(ROWS, 4))
    assert places.target.tolist() == [22, 23, 11, 12]  # a text of one token predicts nothing
    assert places.index.tolist() == [1, 2, 8, 9]
    assert places.owner.tolist() == [0, 0, 1, 1]


def test_packed_examples_lie_end_to_end() -> None:
    # Four tokens wide: client 0 at 0; client 1 at 4 and, after three tokens, at 7.
    starts = packed_starts(TEXTS.lengths(), ROWS, 4)
    assert [s.tolist() for s in starts] == [[0], [4, 7]]
    assert next_tokens(TEXTS, ROWS, starts).index.tolist() == [1, 2, 4, 5]


def test_predictions_are_counted_alike() -> None:
    rows = np.array([0, 1, 2])
    assert TEXTS.predictions(rows).tolist() == [2, 2, 0]
