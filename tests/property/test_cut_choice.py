"""What memory buys in a split model, whatever the model's numbers."""

from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.cuts import CutTable, Need
from fedloom.core.work import LocalWork

NUMBERS = st.integers(0, 10**9)
NEEDS = st.lists(st.builds(Need, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6).map(tuple)
TABLES = st.builds(CutTable, st.integers(0, 9), NEEDS, st.integers(1, 512))
WORK = st.builds(
    LocalWork,
    batch_size=st.integers(1, 64),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    momentum=st.sampled_from([0.0, 0.9]),
)
MEMORY = st.integers(0, 10**15)


@given(TABLES, WORK, MEMORY, MEMORY)
def test_more_memory_never_gives_fewer_blocks(
    table: CutTable, work: LocalWork, one: int, other: int
) -> None:
    less, more = sorted((one, other))
    assert table.bottom(less, work) <= table.bottom(more, work)


@given(TABLES, WORK, MEMORY)
def test_what_is_chosen_fits_where_anything_does(
    table: CutTable, work: LocalWork, memory: int
) -> None:
    bottom, every = table.bottom(memory, work), range(len(table.needs))
    fits = [table.memory(table.least + i, work) <= memory for i in every]
    assert bottom == table.least + max((i for i in every if fits[i]), default=0)
