"""The quickest way through stages, against all ways there are."""

from collections.abc import Iterator

import numpy as np
import pytest

from fedloom.client.paths import Hop, Pace, Served, quickest


def ways(stages: list[Served], first: int, last: int) -> Iterator[list[Hop]]:
    if first == last:
        yield []
    for stage in stages:
        for end in range(first + 1, min(stage.last, last) + 1):
            if stage.first <= first:
                for rest in ways(stages, end, last):
                    yield [Hop(stage, first, end), *rest]


@pytest.mark.parametrize("seed", range(20))
def test_none_is_quicker(seed: int) -> None:
    draw, stages = np.random.default_rng(seed), []
    for number in range(4):
        first = int(draw.integers(0, 4))
        last = int(draw.integers(first + 1, 6))
        stages.append(
            Served(str(number), first, last, float(draw.uniform(1, 9)), draw.random() / 9)
        )
    paces = {stage: Pace.of(stage) for stage in stages}

    def seconds(way: list[Hop]) -> float:
        return sum(paces[hop.stage].seconds(hop.last - hop.first) for hop in way)

    best = min(ways(stages, 1, 5), key=seconds, default=None)
    assert quickest(paces, 1, 5) == (best[0] if best else None)


def test_one_call_is_better_than_two_as_quick() -> None:
    long, short = Served("long", 0, 4), Served("short", 0, 2)
    assert quickest({s: Pace.of(s) for s in (short, long)}, 0, 4) == Hop(long, 0, 4)


def test_a_pace_by_hand() -> None:
    # 10 blocks a second and 0.1 s a call: 2 blocks take 0.3 s. They took 0.7 s: 0.3 s a block,
    # of which a fifth counts: 0.1 + 0.2 (0.3 - 0.1) = 0.14.
    stage = Served("a", 0, 4, 10.0, 0.1)
    pace = Pace.of(stage)
    assert pace.seconds(2) == pytest.approx(0.3, abs=2e-6)
    pace.took(Hop(stage, 0, 2), 0.7)
    assert pace.block == pytest.approx(0.14)
