import json
from dataclasses import replace

import numpy as np
import pytest

from fedloom.core.config import build, to_table
from fedloom.core.cuts import CutTable, Need
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import Component
from fedloom.core.types import (
    Client,
    ClientTask,
    Cohort,
    LocalWork,
    Params,
    Selectors,
    State,
    Tier,
)
from fedloom.strategies.plan import Constant

STATE = State(Params(Layout((TensorSpec("w", (1,)),)), np.zeros(1, dtype=np.float32)), version=6)
COHORT = Cohort(
    7, (Client("a", 3), Client("b", 9)), LocalWork(lr=0.3), Selectors(train=("head",)), seed=5
)


def test_every_client_gets_the_jobs_work() -> None:
    tasks = Constant().plan(STATE, COHORT)
    assert list(tasks) == ["a", "b"]
    work, selectors = LocalWork(lr=0.3), Selectors(train=("head",))
    assert tasks["b"] == ClientTask("b", 7, 6, work, selectors, seed=5)


def test_prox_mu_takes_the_place_of_the_jobs() -> None:
    assert Constant(prox_mu=0.5).plan(STATE, COHORT)["a"].work == LocalWork(lr=0.3, prox_mu=0.5)
    with pytest.raises(ConfigError, match="mu = -1: 0 or more, and finite"):
        Constant(prox_mu=-1)


MB = 2**20
# A block more is 10 MiB more, from 20 for one; work takes nothing.
CUTS = CutTable(1, tuple(Need(10 * MB * b, 0, 0) for b in (2, 3, 4)), 8)


@pytest.mark.parametrize(
    ("tier", "memory", "bottom"),
    [
        (None, 0, None),  # nothing is known: as the job says
        (None, 30 * MB, 2),
        (Tier("pi"), 0, None),
        (Tier("pi", memory_mb=40), 0, 3),
        (Tier("pi", memory_mb=39), 0, 2),
        (Tier("pi", memory_mb=40), 30 * MB, 2),  # the smaller of both
        (Tier("pi", memory_mb=20), 90 * MB, 1),
        (Tier("pi", memory_mb=1), 0, 1),  # not even the fewest fit
        (Tier("pi", memory_mb=40, bottom=1), 40 * MB, 1),  # fixed
    ],
)
def test_blocks_of_a_split_model_by_memory(
    tier: Tier | None, memory: int, bottom: int | None
) -> None:
    client = Client("a", 3, "pi" if tier else "", memory)
    cohort = Cohort(7, (client,), tiers=(tier,) if tier else (), cuts=CUTS)
    assert Constant().plan(STATE, cohort)["a"].bottom == bottom
    fixed = tier.bottom if tier else None
    assert Constant().plan(STATE, replace(cohort, cuts=None))["a"].bottom == fixed


def test_blocks_go_by_the_work_of_the_kind_of_device() -> None:
    # Of 8 tokens a batch keeps 8 MiB for each example: 20 + 8 and 30 + 8, or 20 + 16 and 30 + 16.
    cuts = CutTable(1, tuple(Need(10 * MB * b, 0, MB) for b in (2, 3)), 8)
    for batch, bottom in ((1, 2), (2, 1)):
        tier = Tier("pi", memory_mb=40, local=LocalWork(batch_size=batch))
        cohort = Cohort(7, (Client("a", 3, "pi"),), tiers=(tier,), cuts=cuts)
        assert Constant().plan(STATE, cohort)["a"].bottom == bottom


def test_a_task_is_small_and_comes_back_from_json() -> None:
    selectors = Selectors(("lora", "!layer.0"), ("A", "head"), ("*",), ("B",))
    codec = Component("int8", {"block": 64, "stochastic": True})
    work = LocalWork(epochs=3, max_examples=10_000, optimizer="adamw", lr=1.234567890123e-4)
    task = ClientTask(
        "client-0123456789", 10_000, 9_999, work, selectors, codec=codec, seed=2**62, deadline=600.0
    )
    text = json.dumps(to_table(task))
    assert len(text) < 1024
    assert build(ClientTask, json.loads(text)) == task
