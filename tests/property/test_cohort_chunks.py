from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.types import LocalWork
from fedloom.tuning.cohort import Size, chunks, size_of

sizes_of = st.lists(st.builds(Size, st.integers(1, 20), st.integers(1, 500)), max_size=60)
mosts = st.integers(1, 20)
budgets = st.integers(1, 4000)


@given(sizes_of, mosts, budgets)
def test_every_client_exactly_once(sizes: list[Size], most: int, budget: int) -> None:
    found = [i for chunk in chunks(sizes, most=most, budget=budget) for i in chunk]
    assert sorted(found) == list(range(len(sizes)))


@given(sizes_of, mosts, budgets)
def test_limits_are_respected(sizes: list[Size], most: int, budget: int) -> None:
    for chunk in chunks(sizes, most=most, budget=budget):
        widest = max(sizes[i].tokens for i in chunk)
        assert 1 <= len(chunk) <= most
        assert len(chunk) == 1 or widest * len(chunk) <= budget  # padded to the widest


@given(sizes_of, mosts, budgets)
def test_neighbours_are_of_the_same_size(sizes: list[Size], most: int, budget: int) -> None:
    found = [sizes[i] for chunk in chunks(sizes, most=most, budget=budget) for i in chunk]
    assert found == sorted(sizes, reverse=True)


@given(sizes_of, mosts, budgets)
def test_side_by_side_where_there_are_enough(sizes: list[Size], most: int, budget: int) -> None:
    found = chunks(sizes, most=most, budget=budget, split=4)
    if len(sizes) >= 8:
        assert len(found) >= 4


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), mosts)
def test_equal_clients_fill_their_chunks(order: list[int], most: int) -> None:
    found = [len(c) for c in chunks([Size(1, 1)] * len(order), most=most, budget=10**6)]
    assert len(set(found[:-1])) <= 1
    assert found[-1] <= found[0]


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 4), st.integers(0, 50))
def test_size_counts_what_the_trainer_does(n: int, batch: int, epochs: int, most: int) -> None:
    work = LocalWork(epochs=epochs, batch_size=batch, max_examples=most)
    used = min(n, most) if most else n
    size = size_of(n, 7 * n, work)  # seven tokens in every example
    assert size.steps == epochs * -(-used // batch)
    assert size.tokens == 7 * min(used, batch)
    assert size_of(n, 7 * n, LocalWork(steps=5, batch_size=batch)).steps == 5
