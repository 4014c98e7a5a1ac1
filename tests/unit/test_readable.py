import math

import pytest

from fedloom.readable import bytes_text, duration, headline, value_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (45_600_000, "45.6 MB"), (789e9, "789 GB")],
)
def test_bytes(nbytes: float, text: str) -> None:
    assert bytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (12.34, "12.3 s"), (59.96, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_headline_is_accuracy_where_there_is_one() -> None:
    assert headline(["perplexity", "loss", "accuracy"]) == "accuracy"
    assert headline(["grad_norm"]) == ""


def test_values_have_their_unit() -> None:
    assert value_text("macro_f1", 0.5) == "50.0 %"
    assert value_text("perplexity", 12.3456) == "12.35"
    assert value_text("accuracy", math.inf) == "-"
