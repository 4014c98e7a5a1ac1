from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fedloom.core.errors import ModelError
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.tokens import read_tokenizer, tokenize, tokenize_causal

WORDS = ["[PAD]", "[CLS]", "[SEP]", "a", "b", "c", "d"]  # ids 0 to 6
EOS = 2


@pytest.fixture
def tokenizer() -> Tokenizer:
    """One token a word; adds [CLS] .. [SEP]; pads and cuts, as a saved one may."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_padding(length=9)
    made.enable_truncation(3)
    return made


@pytest.fixture
def plain(tokenizer: Tokenizer) -> Tokenizer:
    """Adds no special tokens, as most causal language models' tokenizers do."""
    made = Tokenizer(tokenizer.model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def ids(examples: TextExamples) -> list[list[int]]:
    bounds = zip(examples.offsets, examples.offsets[1:], strict=False)
    return [examples.tokens[start:end].tolist() for start, end in bounds]


def test_special_tokens_are_added_and_kept_when_a_text_is_cut(tokenizer: Tokenizer) -> None:
    assert ids(tokenize(["a b", "", "a b c d"], tokenizer, 5)) == [
        [1, 3, 4, 2],
        [1, 2],
        [1, 3, 4, 5, 2],
    ]


def test_the_callers_tokenizer_stays_as_it_is(tokenizer: Tokenizer) -> None:
    before = tokenizer.to_str()
    tokenize(["a"], tokenizer, 8)
    assert tokenizer.to_str() == before


def test_no_texts_give_no_examples(tokenizer: Tokenizer) -> None:
    assert ids(tokenize([], tokenizer, 5)) == []


def test_more_texts_than_a_chunk_keep_their_order(tokenizer: Tokenizer) -> None:
    texts = ["a", "b c"] * 4100
    examples = tokenize(texts, tokenizer, 5)
    assert ids(examples) == [[1, 3, 2], [1, 4, 5, 2]] * 4100


def test_a_causal_text_ends_in_eos_unless_it_is_cut(plain: Tokenizer) -> None:
    examples = tokenize_causal(["a b", "a b c", "a b c d"], None, plain, max_tokens=4, eos=EOS)
    assert ids(examples) == [[3, 4, EOS], [3, 4, 5, EOS], [3, 4, 5, 6]]
    assert examples.prompt_lengths is None


def test_eos_is_not_put_twice(tokenizer: Tokenizer) -> None:
    assert ids(tokenize_causal(["a"], None, tokenizer, max_tokens=4, eos=EOS)) == [[1, 3, EOS]]


def test_without_eos_a_text_just_ends(plain: Tokenizer) -> None:
    assert ids(tokenize_causal(["a", ""], None, plain, max_tokens=4)) == [[3], []]


def test_a_prompt_comes_first_and_its_length_is_kept(plain: Tokenizer) -> None:
    examples = tokenize_causal(["c"], ["a b"], plain, max_tokens=9, eos=EOS)
    assert ids(examples) == [[3, 4, 5, EOS]]
    assert examples.prompt_lengths is not None
    assert examples.prompt_lengths.tolist() == [2]


@pytest.mark.parametrize(
    ("prompt", "text", "expected", "head"),
    [
        ("a b c", "d", [4, 5, 6, EOS], 2),  # text whole; the prompt loses its beginning
        ("a", "b c d", [3, 4, 5, 6], 1),  # the prompt is short: the text takes what it leaves
        ("a b c", "b c d", [4, 5, 4, 5], 2),  # both long: half each
        ("", "a b c d", [3, 4, 5, 6], 0),
    ],
)
def test_prompt_and_text_share_the_room(
    plain: Tokenizer, prompt: str, text: str, expected: list[int], head: int
) -> None:
    examples = tokenize_causal([text], [prompt], plain, max_tokens=4, eos=EOS)
    assert ids(examples) == [expected]
    assert examples.prompt_lengths is not None
    assert examples.prompt_lengths.tolist() == [head]


def test_a_newline_parts_prompt_and_text(plain: Tokenizer) -> None:
    plain.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    plain.model = models.WordLevel({"a": 0, "\n": 1, "a\t": 2}, unk_token="a")
    examples = tokenize_causal(["a", "a"], ["a", "a\t"], plain, max_tokens=9)
    assert ids(examples) == [[0, 1, 0], [2, 0]]


def test_a_model_folder_without_a_tokenizer_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json: no such file"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a tokenizer: "):
        read_tokenizer(tmp_path)


def test_a_saved_tokenizer_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).to_str() == tokenizer.to_str()
