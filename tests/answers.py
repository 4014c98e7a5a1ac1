"""Tokenizers of a few words, for models of 120 ids that answer with words."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

WORDS = [
    "it",
    "was",
    "a",
    "great",
    "bad",
    "fine",
    "film",
    "of",
    "two",
    "the",
    "end",
    "and",
    "news",
    "about",
    "sport",
    "art",
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def pieces() -> Tokenizer:
    """BERT's kind: whole words, and two words of two pieces, ``badly`` and ``greatly``."""
    names = [*SPECIAL, *WORDS, "##ly", ".", ":", "(", ")", "!"]
    tokenizer = Tokenizer(
        models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def bytes_pairs() -> Tokenizer:
    """GPT-2's kind: tokens hold the space before them, and there are no special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=119, show_progress=False)
    text = " ".join(WORDS) + " : . ! ( )"
    tokenizer.train_from_iterator([text, f"{text} greatly badly"] * 4, trainer)
    return tokenizer
