import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig
from fedloom.core.patterns import Pattern


def test_a_pattern_has_two_sides() -> None:
    assert Pattern.of("") == Pattern("", "")
    assert Pattern.of("Review: {text} Verdict:") == Pattern("Review: ", " Verdict:")
    assert Pattern.of("{text} It was {mask}.").masked("<m>") == Pattern("", " It was <m>.")


@pytest.mark.parametrize(
    ("pattern", "stem"),
    [
        ("", ("", True)),  # right after the text
        ("{text}\nVerdict:", ("\nVerdict:", True)),
        ("{text} It was {mask}.", (" It was", True)),
        ("{text} ({mask})", (" (", False)),
        ("{text} {mask}", ("", True)),
        ("{mask} news: {text}", ("", False)),  # first of all
        ("A {mask} text: {text}", ("A", True)),
    ],
)
def test_the_stem_is_what_the_answer_follows(pattern: str, stem: tuple[str, bool]) -> None:
    assert Pattern.of(pattern).stem == stem


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "It was:"}, r"backbone\.pattern = 'It was:': \{text\} once in it"),
        ({"pattern": "{text} {text}"}, r"\{text\} once in it"),
        ({"pattern": "{text} {mask}"}, r"no \{mask\}: it is of backbone\.pooling = 'mask'"),
        ({"pooling": "mask"}, r"backbone\.pattern = '': \{mask\} once in it"),
        ({"pooling": "mask", "pattern": "{text} is {text}"}, r"\{text\} once in it"),
        ({"pooling": "mask", "pattern": "{text} is"}, r"\{mask\} once in it, for backbone\.pool"),
        ({"pooling": "mask", "pattern": "{text}{mask}{mask}"}, r"\{mask\} once in it"),
        ({"task": "causal-lm", "pattern": "{text}"}, r"the task is 'causal-lm'"),
        (
            {"task": "classify-image", "pooling": "last"},
            r"backbone\.pooling = 'last': mean or model, for this task",
        ),
        ({"words": ("a", "b")}, r"backbone\.words = \('a', 'b'\): none: .*head_init = 'zeros'"),
        (
            {"head_init": "words", "task": "classify-image"},
            r"backbone\.head_init = 'words': zeros or normal: .*task is 'classify-image'",
        ),
        (
            {"head_init": "words", "pooling": "model"},
            r"backbone\.pooling = 'model': mean, last or mask, for backbone\.head_init = 'words'",
        ),
        ({"head_init": "words", "words": ("a", " ")}, "words that are not empty"),
        ({"head_init": "words", "words": ("a", "a")}, "each word once"),
        (
            {"head_init": "words", "pooling": "last", "pattern": "{text} It was "},
            "no white space at its end",
        ),
        ({"pooling": "first"}, r"backbone\.pooling = 'first': one of mean, model, last, mask"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BackboneConfig(**values)  # type: ignore[arg-type]
