"""Golden values: an address must name the same directions on every machine and for ever."""

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.perturbation_keys import client_number, key, keys, pool_keys, run_id

RUN = b"run0" + bytes(12)


def test_the_known_answer_of_the_specification() -> None:
    assert f"{key(RUN, round=3, client=7, group=0):032x}" == "58b9eca1118cb4f77fd330ed16cebda8"


def test_every_number_of_an_address_counts() -> None:
    addresses = [(RUN, 3, 7, 0), (bytes(16), 3, 7, 0), (RUN, 7, 3, 0), (RUN, 3, 7, 1)]
    names = {key(run, round=r, client=c, group=g) for run, r, c, g in addresses}
    assert len(names) == 4


def test_largest_numbers_are_addresses() -> None:
    assert key(RUN, round=2**64 - 1, client=2**64 - 1, group=2**32 - 1) < 2**128


@pytest.mark.parametrize(
    ("run", "numbers", "text"),
    [
        (b"short", (0, 0, 0), r"run = b'short': 16 bytes"),
        (RUN, (-1, 0, 0), r"round = -1: 0 to 2\^64 - 1"),
        (RUN, (2**64, 0, 0), r"round = 18446744073709551616: 0 to 2\^64 - 1"),
        (RUN, (0, 2**64, 0), r"client = 18446744073709551616: 0 to 2\^64 - 1"),
        (RUN, (0, 0, 2**32), r"group = 4294967296: 0 to 2\^32 - 1"),
    ],
)
def test_what_is_no_address_is_refused(
    run: bytes, numbers: tuple[int, int, int], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        key(run, round=numbers[0], client=numbers[1], group=numbers[2])


def test_eight_directions_share_a_key() -> None:
    expected = [key(RUN, round=3, client=7, group=group) for group in range(3)]
    assert keys(RUN, 17, round=3, client=7) == expected
    assert keys(RUN, 16, round=3, client=7) == expected[:2]
    with pytest.raises(ConfigError, match="directions = 0: 1 or more"):
        keys(RUN, 0, round=3, client=7)


def test_a_pool_stands_at_round_and_client_zero() -> None:
    assert pool_keys(RUN, 9) == [key(RUN, round=0, client=0, group=g) for g in range(2)]
    assert pool_keys(RUN, 8, epoch=5) == [key(RUN, round=5, client=0, group=0)]


def test_runs_and_clients_are_golden() -> None:
    assert run_id(7).hex() == "cb59f1b240e565a9c60c5076473ad297"
    assert client_number("a") == 17741042932341308466
    assert len({run_id(seed) for seed in (0, 1, -1, 2**70)}) == 4
    assert len({client_number(name) for name in ("", "a", "b", "ä")}) == 4
