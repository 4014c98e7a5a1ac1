"""What strategies remember of clients: parts of a record, and what is none."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Params, State
from fedloom.strategies.fedavg import fedavg
from fedloom.strategies.remembering import Memory, layout_of

A, B = Layout((TensorSpec("a", (2,)),)), Layout((TensorSpec("b", (1,)),))
BOTH = Layout((*A.specs, *B.specs))
STATE = State(Params(BOTH, np.zeros(3, dtype=np.float32)))


@dataclass
class Remembers:
    """Remembers what it is told to."""

    part: Params = field(default_factory=lambda: Params(B, np.array([5], dtype=np.float32)))
    wanted: Layout = BOTH

    def remembers(self, sent: Layout) -> Layout:
        return self.wanted

    def remember(self, state: State, update: ClientUpdate) -> Params:
        return self.part


def memory(folder: Path, strategy: Remembers) -> Memory:
    records = ClientVectors(folder / "of.sqlite", BOTH, {}, done=0, fresh=True)
    return Memory(strategy, BOTH, records)


def test_tensors_that_a_strategy_does_not_name_stay(tmp_path: Path) -> None:
    strategy = Remembers()
    kept = memory(tmp_path, strategy)
    first = kept.recalled(ClientUpdate("ann", 1, 1))
    assert first.remembered is None
    kept.remember(STATE, first)
    kept.commit(1)
    second = kept.recalled(ClientUpdate("ann", 2, 1))
    assert second.remembered is not None
    assert second.remembered.vector.tolist() == [0.0, 0.0, 5.0]
    strategy.part = Params(A, np.array([1, 2], dtype=np.float32))
    kept.remember(STATE, second)
    third = kept.recalled(ClientUpdate("ann", 3, 1)).remembered
    assert third is not None
    assert third.vector.tolist() == [1.0, 2.0, 5.0]


def test_who_remembers_nothing_has_no_record() -> None:
    assert layout_of(fedavg(), BOTH).specs == ()


def test_only_what_is_sent_can_be_remembered() -> None:
    with pytest.raises(StrategyError, match=r"remembers, round 0: .*tensor 'b'"):
        layout_of(Remembers(), A)


def test_what_is_no_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="remembers, round 0: returned NoneType; expected a La"):
        layout_of(Remembers(wanted=cast(Any, None)), A)
    kept = memory(tmp_path, Remembers(cast(Any, None)))
    with pytest.raises(StrategyError, match="remember, round 1: returned NoneType; expected Param"):
        kept.remember(STATE, ClientUpdate("ann", 1, 1))


def test_tensors_of_another_model_are_no_record(tmp_path: Path) -> None:
    other = Layout((TensorSpec("a", (7,)),))
    strategy = Remembers(Params(other, np.zeros(7, dtype=np.float32)))
    kept = memory(tmp_path, strategy)
    with pytest.raises(StrategyError, match=r"remember, round 1: .*tensor 'a'"):
        kept.remember(STATE, ClientUpdate("ann", 1, 1))
