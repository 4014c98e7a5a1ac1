"""Devices of three kinds in one round, against the mean taken by hand."""

from pathlib import Path

import numpy as np
import pytest
from small_jobs import labelled_rows
from test_recipes import table_of

import fedloom
from fedloom.core.types import ClientUpdate, Delta
from fedloom.progress import Quiet
from fedloom.strategies.step_total import StepTotal
from fedloom.strategies.zeroth_order import ZerothOrder

DIRECTIONS = 16
SHRINK = 0.2


def test_a_mixed_round_is_the_mean_by_what_updates_are_worth(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Delta, int]] = []
    accumulate = ZerothOrder.accumulate

    def listening(self: ZerothOrder, total: StepTotal | None, update: ClientUpdate) -> StepTotal:
        assert update.delta is not None
        seen.append((update.delta, update.num_examples))
        return accumulate(self, total, update)

    monkeypatch.setattr(ZerothOrder, "accumulate", listening)
    table = table_of("tiers", text_model, tmp_path) | {"rounds": 1}
    table["clients_per_round"] = 12
    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())

    start = run.prepared.model.initial(run.prepared.job.seed)
    layout = start.layout
    guesses = [(delta, n) for delta, n in seen if delta.steps is not None]
    kinds = {delta.whole.names for delta, _ in seen}
    assert len(kinds) == 3  # all of LoRA, of one block, and B alone
    assert guesses

    moved = guesses[0][0].steps
    assert moved is not None
    d = moved.layout.size
    used = sum(int(np.count_nonzero(g.steps.scalars)) for g, _ in guesses if g.steps)
    trust = (used / len(guesses)) / (used / len(guesses) + d)
    reach = used / (used + SHRINK * d)

    tops = {spec.name: np.zeros(spec.size) for spec in layout}
    weights = dict.fromkeys(tops, 0.0)
    for delta, n in seen:
        for spec in delta.layout:
            tops[spec.name] += n * delta.vector[delta.layout.span(spec.name)]
            weights[spec.name] += n
        if delta.steps is not None:
            vector = delta.steps.vector()
            for spec in delta.steps.layout:
                span = delta.steps.layout.span(spec.name)
                tops[spec.name] += n * trust * reach * vector[span]
                weights[spec.name] += n * trust
    change = run.params.vector - start.vector
    for name, top in tops.items():
        expected = top / (weights[name] or 1.0)
        np.testing.assert_allclose(change[layout.span(name)], expected, rtol=2e-3, atol=1e-6)


def test_what_each_kind_of_device_sends(text_model: dict[str, Path], tmp_path: Path) -> None:
    """A forward device sends the head and two bytes for each direction, the others tensors."""
    table = table_of("tiers", text_model, tmp_path) | {"rounds": 1}
    table["clients_per_round"] = 12
    alone = {**table, "tiers": [{**table["tiers"][2], "share": 1.0}]}
    up = fedloom.simulate(alone, data=labelled_rows(), observer=Quiet()).history["bytes_up"][-1]
    head = 4 * (32 * 3 + 3)  # weight and bias of three classes over 32 features
    assert up == 12 * (68 + head + 2 * DIRECTIONS)
