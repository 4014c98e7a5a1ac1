"""Golden values: a run of today must repeat on every machine and under every later numpy."""

from collections import Counter

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.seeds import Stream, derive, stream


def test_the_words_are_philox() -> None:
    # Known answer of Philox4x64-10 for key 0 (numpy counts up before the first block).
    words = [f"{word:016x}" for word in Stream(0).words(4).tolist()]
    assert " ".join(words) == "02f4ba6408e4d89b 3dd62b0b9ca8c5b2 1c8667a55d902e79 907d7a052fd5b4dc"


def test_words_come_in_one_sequence() -> None:
    one, two = Stream(5), Stream(5)
    assert one.words(3).tolist() + one.words(4).tolist() == two.words(7).tolist()
    assert Stream(5).words(0).tolist() == []


def test_keys_are_golden() -> None:
    assert f"{derive(7, 'order', round=3, client='a'):032x}" == "51a59a0b4b708635ef17cc77444650b9"
    assert f"{derive(0, 'cohort'):032x}" == "2332ebe80a27bfd0aec101d414b5ad26"


def test_every_number_of_a_key_counts() -> None:
    keys = {
        derive(7, "order", round=3, client="a"),
        derive(8, "order", round=3, client="a"),
        derive(7, "other", round=3, client="a"),
        derive(7, "order", round=4, client="a"),
        derive(7, "order", round=3, client="b"),
        derive(7, "order", round=3),
    }
    assert len(keys) == 6


def test_draws_are_golden() -> None:
    assert stream(7, "order", round=3, client="a").permutation(6).tolist() == [5, 0, 4, 3, 2, 1]
    assert stream(7, "cohort", round=1).choose(1000, 5).tolist() == [1, 185, 240, 904, 986]
    assert stream(7, "noise").uniform(2).tolist() == [0.961505992384533, 0.5642464518270869]


def test_uniform_numbers_are_the_top_53_bits() -> None:
    word = 0x02F4BA6408E4D89B
    assert Stream(0).uniform(1).tolist() == [(word >> 11) / 2**53]


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 1), (5, 0), (5, 5), (10**12, 4)])
def test_a_choice_is_ascending_and_without_repetition(n: int, k: int) -> None:
    chosen = Stream(1).choose(n, k).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == k
    assert all(0 <= pick < n for pick in chosen)


def test_every_choice_is_equally_likely() -> None:
    numbers = Stream(2)
    counts = Counter(tuple(numbers.choose(4, 2).tolist()) for _ in range(6000))
    # Six pairs, 1000 each on average; standard deviation sqrt(6000 * 5/36) = 29.
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match="choose = 4: 0 to 3, as many as there are"):
        Stream(1).choose(3, 4)


def test_a_generator_goes_on_with_the_stream() -> None:
    one, two = Stream(3), Stream(3)
    assert one.generator().random(3).tolist() == two.generator().random(3).tolist()
    assert one.words(1).tolist() != Stream(3).words(1).tolist()
