"""Neither the order of the entries nor where coordinates are cut changes a bit of a replay."""

import struct
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.gaussian import Gaussian
from fedloom.core.perturbations import Family, Rademacher
from fedloom.core.replay import Entry, replay

SIZE = 300
FAMILIES: list[Family] = [Rademacher(), Gaussian()]
ENTRIES = st.builds(
    Entry,
    key=st.sampled_from([0, 1, 2**64, 2**128 - 1]) | st.integers(0, 2**128 - 1),
    scalars=st.binary(min_size=16, max_size=16).map(lambda b: struct.unpack("<8h", b)),
)
LEDGERS = st.lists(ENTRIES, min_size=1, max_size=6)


@given(family=st.sampled_from(FAMILIES), ledger=LEDGERS, data=st.data())
def test_no_order_changes_a_bit(family: Family, ledger: list[Entry], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(ledger))
    one, two = (replay(listed, SIZE, family=family) for listed in (ledger, shuffled))
    assert one.dtype == two.dtype
    assert one.tobytes() == two.tobytes()


@given(
    family=st.sampled_from(FAMILIES),
    ledger=LEDGERS,
    cuts=st.lists(st.integers(0, SIZE), max_size=5),
)
def test_no_cut_changes_a_bit(family: Family, ledger: list[Entry], cuts: list[int]) -> None:
    bounds = pairwise([0, *sorted(cuts), SIZE])
    parts = [replay(ledger, b - a, start=a, family=family) for a, b in bounds]
    whole = replay(ledger, SIZE, family=family)
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(family=st.sampled_from(FAMILIES), ledger=LEDGERS, at=st.integers(0, 6))
def test_two_halves_of_a_ledger_add_up(family: Family, ledger: list[Entry], at: int) -> None:
    first, second = (replay(part, SIZE, family=family) for part in (ledger[:at], ledger[at:]))
    together = first.astype(np.int64) + second
    assert together.tolist() == replay(ledger, SIZE, family=family).tolist()
