import pytest
from answers import bytes_pairs, pieces
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.errors import ConfigError
from fedloom.core.patterns import Pattern
from fedloom.tuning.patterned import mask_of, tokenize_within, word_tokens
from fedloom.tuning.tokens import tokenize

PLACE = Pattern.of("the film : {text} it was {mask}.")
TEXTS = ["great and bad", "a film of two and the end of it", "", "fine!"]


def test_what_fits_is_the_tokens_of_the_whole_phrase() -> None:
    tokenizer = pieces()
    found = tokenize_within(TEXTS, tokenizer, 40, PLACE)
    filled = [f"the film : {text} it was [MASK]." for text in TEXTS]
    expected = tokenize(filled, tokenizer, 40)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()


@given(st.lists(st.sampled_from([*["great", "badly", "film", "the", "!", "[MASK]"]]), max_size=12))
@pytest.mark.parametrize("most", [11, 12, 14])
def test_the_text_is_cut_and_the_pattern_is_not(most: int, words: list[str]) -> None:
    # [CLS] the film : (text) it was [MASK] . [SEP]: 4 tokens before the text, 5 after it
    tokenizer = pieces()
    found = tokenize_within([" ".join(words)], tokenizer, most, PLACE).ids(0).tolist()
    head, tail = [tokenizer.encode(t).ids for t in ("the film :", "it was [MASK].")]
    body = tokenizer.encode(" ".join(w for w in words if w != "[MASK]")).ids[1:-1]
    assert found == head[:-1] + body[: most - 9] + tail[1:]
    assert found.count(mask_of(tokenizer)[1]) == 1


def test_tokens_with_spaces_are_cut_likewise() -> None:
    tokenizer, pattern = bytes_pairs(), Pattern.of("news: {text} it was")
    whole = tokenizer.encode("news: a film of two and the end it was").ids
    cut = tokenizer.encode("news: a film of it was").ids
    found = tokenize_within(["a film of two and the end"], tokenizer, len(cut), pattern)
    assert len(whole) > len(cut)
    assert found.ids(0).tolist() == cut


def test_a_pattern_without_room_is_refused() -> None:
    text = r"backbone\.max_tokens = 9: the pattern alone takes 9 tokens"
    with pytest.raises(ConfigError, match=text):
        tokenize_within(TEXTS, pieces(), 9, PLACE)


def test_a_tokenizer_without_mask_is_refused() -> None:
    text = r"backbone\.pooling = 'mask': the backbone's tokenizer has no mask token"
    with pytest.raises(ConfigError, match=text):
        tokenize_within(TEXTS, bytes_pairs(), 40, PLACE)


def test_words_are_tokens_as_they_stand_after_the_pattern() -> None:
    tokenizer = pieces()
    great, ly = tokenizer.token_to_id("great"), tokenizer.token_to_id("##ly")
    assert word_tokens(tokenizer, ["great", "greatly"], PLACE) == [[great], [great, ly]]
    spaced = bytes_pairs()
    for pattern in ("{text} it was", "", "{text} it was {mask}"):
        (found,) = word_tokens(spaced, ["great"], Pattern.of(pattern))
        assert found == spaced.encode("it great").ids[-len(found) :]
        assert spaced.decode(found) == " great"
    (alone,) = word_tokens(spaced, ["great"], Pattern.of("{mask} news: {text}"))
    assert spaced.decode(alone) == "great"


def test_a_word_that_melts_into_the_pattern_is_refused() -> None:
    text = r"'ly' begins no token of its own after ' bad'"
    tokenizer = bytes_pairs()
    stem = len(tokenizer.encode(" bad").ids)
    assert tokenizer.encode(" badly").ids[:stem] != tokenizer.encode(" bad").ids
    with pytest.raises(ConfigError, match=text):
        word_tokens(tokenizer, ["ly"], Pattern.of("{text} bad{mask}"))
