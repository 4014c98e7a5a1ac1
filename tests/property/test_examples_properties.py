import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.tuning.examples import TextExamples

TEXTS = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=12)


@given(TEXTS, st.data())
@settings(max_examples=150, deadline=None)
def test_take_is_list_indexing(texts: list[list[int]], data: st.DataObject) -> None:
    lengths = [len(text) for text in texts]
    tokens = np.array([token for text in texts for token in text], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20))
    taken = TextExamples(tokens, offsets).take(np.array(rows, dtype=np.int64))
    bounds = zip(taken.offsets, taken.offsets[1:], strict=False)
    assert [taken.tokens[a:b].tolist() for a, b in bounds] == [texts[row] for row in rows]
