import pytest

from fedloom.core.cuts import CutTable, Need, widest
from fedloom.core.errors import ConfigError
from fedloom.core.split import SplitConfig
from fedloom.core.work import LocalWork, Tier

# Embeddings of 1,000 bytes and blocks of 100; two blocks above; each block trains 10 numbers and
# keeps 5 bytes of a token. With b below: W = 1000 + 100 (b + 2), P = 10 (b + 2), A = 5 (b + 2).
TABLE = CutTable(1, tuple(Need(1200 + 100 * b, 20 + 10 * b, 10 + 5 * b) for b in (1, 2, 3)), 8)
WORK = LocalWork(batch_size=4)


@pytest.mark.parametrize(
    ("work", "bottom", "expected"),
    [
        # W + 8 * 4 tokens * A + 4 P * 3 numbers kept of each: 1300 + 480 + 360
        (WORK, 1, 2140),
        (WORK, 2, 1400 + 640 + 480),
        (LocalWork(batch_size=4, momentum=0.9), 1, 1300 + 480 + 480),
        (LocalWork(batch_size=4, optimizer="adamw"), 1, 1300 + 480 + 600),
        (LocalWork(batch_size=8), 1, 1300 + 960 + 360),
    ],
)
def test_what_blocks_need(work: LocalWork, bottom: int, expected: int) -> None:
    assert TABLE.memory(bottom, work) == expected


def test_a_device_takes_as_many_blocks_as_its_memory_holds() -> None:
    # 2140 bytes for one block, 2520 for two, 2900 for three.
    found = {memory: TABLE.bottom(memory, WORK) for memory in (2139, 2140, 2519, 2520, 2900, 9999)}
    assert found == {2139: 1, 2140: 1, 2519: 1, 2520: 2, 2900: 3, 9999: 3}
    assert [TABLE.holds(memory, WORK) for memory in (2139, 2140)] == [False, True]


def test_the_most_blocks_that_anyone_has() -> None:
    assert widest(SplitConfig(bottom=2), ()) == 2
    assert widest(SplitConfig(bottom=2, most_bottom=4), (Tier("a", bottom=3),)) == 4
    assert widest(SplitConfig(bottom=2), (Tier("a", bottom=3), Tier("b"))) == 3
    assert widest(SplitConfig(bottom=2), (Tier("a", bottom=0),)) == 2


def test_fewer_at_most_than_at_least() -> None:
    with pytest.raises(ConfigError, match=r"split.most_bottom = 1: 0, or split.bottom = 2 or more"):
        SplitConfig(bottom=2, most_bottom=1)


def test_a_kind_of_device_has_no_less_than_nothing() -> None:
    with pytest.raises(ConfigError, match=r"tiers.pi.memory_mb = -1: 0 \(not known\) or more"):
        Tier("pi", memory_mb=-1)
    with pytest.raises(ConfigError, match=r"tiers.pi.bottom = -1: 0 or more"):
        Tier("pi", bottom=-1)


def test_logits_are_no_more_than_there_are_at_a_time() -> None:
    # 10 of weights; 8 tokens an example, each 1 in the blocks and 5 of logits, of which 90 at most.
    table = CutTable(1, (Need(10, 0, 1, 5, 90),), 8)
    one, many = LocalWork(batch_size=1), LocalWork(batch_size=4)
    assert table.memory(1, one) == 10 + 8 + 40
    assert table.memory(1, many) == 10 + 32 + 90
