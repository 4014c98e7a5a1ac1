import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.simulation.holdings import Partition
from fedloom.simulation.partition import (
    Rule,
    TrainingRows,
    dirichlet,
    iid,
    natural,
    quantity,
    shards,
)


@st.composite
def training_rows(draw: st.DrawFn) -> TrainingRows:
    count = draw(st.integers(1, 300))
    owners = draw(st.integers(1, 12))
    bits = np.random.default_rng(draw(st.integers(0, 1000)))
    names = tuple(f"n{index}" for index in range(owners))
    return TrainingRows(count, bits.integers(0, 5, count), bits.integers(0, owners, count), names)


@st.composite
def rules(draw: st.DrawFn, count: int) -> Rule:
    clients = draw(st.integers(1, count))
    alpha = draw(st.sampled_from([1e-3, 0.1, 1.0, 1e5]))
    per_client = draw(st.integers(1, count // clients))
    return draw(
        st.sampled_from(
            [
                natural(),
                iid(clients),
                dirichlet(clients, alpha),
                quantity(clients, sigma=alpha),
                quantity(clients, alpha=alpha),
                shards(clients, per_client),
            ]
        )
    )


def listed(partition: Partition) -> list[list[int]]:
    return [partition.rows_of(client).tolist() for client in range(len(partition))]


@given(st.data(), training_rows(), st.integers(0, 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_every_row_belongs_to_one_client_and_no_client_is_empty(
    data: st.DataObject, rows: TrainingRows, seed: int
) -> None:
    rule = data.draw(rules(rows.count))
    partition = rule(rows, seed)
    held = listed(partition)
    assert sorted(row for client in held for row in client) == list(range(rows.count))
    assert [len(client) for client in held] == partition.sizes.tolist()
    assert all(held)
    assert held == listed(rule(rows, seed))


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_iid_sizes_differ_by_at_most_one(count: int, clients: int, seed: int) -> None:
    sizes = iid(min(clients, count))(TrainingRows(count), seed).sizes
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99), st.integers(0, 10**6 - 1))
@settings(max_examples=100, deadline=None)
def test_drawn_rows_are_different_rows_of_the_corpus(
    count: int, examples: int, seed: int, client: int
) -> None:
    rule = iid(10**6, examples=min(examples, count))
    rows = rule(TrainingRows(count), seed).rows_of(client)
    assert len(set(rows.tolist())) == min(examples, count)
    assert 0 <= rows.min() <= rows.max() < count
