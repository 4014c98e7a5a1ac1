import json

import numpy as np
import pytest

from fedloom.core.config import build, to_table
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
