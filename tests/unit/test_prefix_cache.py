"""What is kept below the cut has the bits that computing it anew would give."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.registry import Component
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.prefix import GROUP, CacheLimits, PrefixCache

Rows = NDArray[np.int64]
N, WIDTH = 40, 3
SIZES = np.array([1 + i % 3 for i in range(N)], dtype=np.int64)
ROW_BYTES = WIDTH * 4
PLENTY = CacheLimits(memory=10**6)


class Numbered:
    """Activations that tell which example, which of its rows, and the group they came with."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, rows: Rows) -> Tensor:
        self.asked.append(rows.tolist())
        lines = [(i, j, len(rows)) for i in rows for j in range(SIZES[i])]
        return torch.tensor(lines, dtype=torch.float32)


def cache(
    compute: Callable[[Rows], Tensor], limits: CacheLimits, order: Rows | None = None
) -> PrefixCache:
    given = np.arange(N) if order is None else order
    return PrefixCache(SIZES, WIDTH, torch.float32, compute, order=given, limits=limits)


def first_two(rows: list[int]) -> list[list[int]]:
    return [[i, j] for i in rows for j in range(SIZES[i])]


def test_examples_come_in_the_order_asked() -> None:
    rows = [7, 0, 39, 7]
    found = cache(Numbered(), PLENTY).gather(np.array(rows))
    assert found[:, :2].tolist() == first_two(rows)


def test_groups_are_aligned_and_computed_once() -> None:
    compute = Numbered()
    kept = cache(compute, PLENTY)
    for _ in range(2):
        kept.gather(np.array([GROUP + 2, 1]))
        kept.gather(np.array([3]))
    assert compute.asked == [list(range(GROUP)), list(range(GROUP, 2 * GROUP))]


def test_groups_follow_the_given_order() -> None:
    compute, order = Numbered(), np.arange(N)[::-1].copy()
    found = cache(compute, PLENTY, order).gather(np.array([39, 0]))
    assert compute.asked == [list(range(39, 39 - GROUP, -1)), list(range(39 - 2 * GROUP, -1, -1))]
    assert found[:, :2].tolist() == first_two([39, 0])


@pytest.mark.parametrize("budget", [0, 100, 500, 700, 960])
def test_memory_is_bounded_and_what_does_not_fit_is_computed(budget: int) -> None:
    # 40 examples of 1, 2, 3, 1, ... rows have 79 rows of 12 bytes: 948 in all.
    compute = Numbered()
    kept = cache(compute, CacheLimits(memory=budget))
    assert kept.nbytes <= budget
    rows = [*range(0, N, 3), 1]
    for _ in range(2):
        assert kept.gather(np.array(rows))[:, :2].tolist() == first_two(rows)
    groups = [asked for asked in compute.asked if len(asked) > 1]
    alone = [asked[0] for asked in compute.asked if len(asked) == 1]
    covered = {i for group in groups for i in group}
    assert not covered & set(alone)
    assert sum(SIZES[i] for i in covered) * ROW_BYTES <= budget
    assert bool(alone) == (budget < 948)


def test_an_example_that_does_not_fit_is_always_computed_alone() -> None:
    # Whole groups of 16 (31 rows, 372 bytes) and 32 (64 rows, 768 bytes): only the first fits.
    kept = cache(Numbered(), CacheLimits(memory=400))
    assert kept.gather(np.array([2, 20, 30]))[:, 2].tolist() == [GROUP] * 3 + [1] * 3 + [1]


@pytest.mark.parametrize("memory", [10**6, 400])
def test_bits_do_not_depend_on_who_asked_first(memory: int) -> None:
    # The third column is the size of the group that an example was computed in, as a stand-in for
    # bits that depend on it.
    asked = [np.array([3, 30]), np.array([20, 5]), np.array([39])]
    found = []
    for order in (asked, asked[::-1], asked[1:]):
        kept = cache(Numbered(), CacheLimits(memory=memory))
        for rows in order:
            kept.gather(rows)
        found.append(kept.gather(np.arange(N)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_file_takes_what_memory_does_not_hold(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    compute = Numbered()
    kept = cache(compute, CacheLimits(memory=100, disk=10**6, folder=folder))
    assert kept.nbytes == 948
    assert folder.is_dir()
    assert not list(folder.iterdir())  # it has no name, so that a crash leaves nothing behind
    for _ in range(2):
        assert kept.gather(np.arange(N))[:, :2].tolist() == first_two(list(range(N)))
    assert len(compute.asked) == 3


def test_a_file_is_bounded_too(tmp_path: Path) -> None:
    kept = cache(Numbered(), CacheLimits(memory=100, disk=400, folder=tmp_path))
    assert kept.nbytes == 372
    assert kept.gather(np.array([39, 2]))[:, :2].tolist() == first_two([39, 2])


def test_memory_that_holds_all_leaves_the_disk_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache(Numbered(), CacheLimits(memory=948, disk=10**6, folder=folder))
    assert not folder.exists()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_real_activations_are_those_of_their_aligned_group(
    model_folder: dict[tuple[str, str], Path],
    ragged: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]],
    order: list[int],
) -> None:
    examples = TextExamples(*ragged)
    model = build_model(
        model_folder["bert", "AutoModel"],
        Component("lora", {"layers": (-1,)}),
        Task("classify", 3, "mean"),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    assert isinstance(model, FusedModel)
    params = model.initial(0)
    kept = model.prefix_cache(params, ("*",), examples, order=None, limits=PLENTY)
    assert kept is not None
    groups = [np.arange(i, min(i + GROUP, N)) for i in range(0, N, GROUP)]
    for i in order:
        kept.gather(groups[i][1:3])
    session = model.session(params, ("*",), examples)
    for group in groups:
        assert torch.equal(kept.gather(group), session.frozen_activations(group))
