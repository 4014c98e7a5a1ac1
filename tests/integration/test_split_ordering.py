"""Whose batches move what: two clients and two steps each, every gradient taken by itself."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, start
from numpy.typing import NDArray
from splits import ALL, Split, fused

from fedloom.core.layout import Vector
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.cut import Cut
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment
from fedloom.tuning.near import NearStage
from fedloom.tuning.ordering import StageOptions

ETA = 0.1
WORK = LocalWork(steps=2, batch_size=4, lr=ETA)
PAIR = [Assignment(f"c{i}", np.arange(8) + 8 * i, round=1, seed=0) for i in range(2)]


@dataclass
class Two:
    """Two clients by hand: w_i = (what client i holds at home, far tensors)."""

    split: Split

    def __post_init__(self) -> None:
        model = self.split.model
        self.start = self.split.params.vector
        far = model.holding(self.split.cut.far(model.depth)).layout
        self.far = np.zeros(model.layout.size, dtype=bool)
        for here, _ in model.layout.spans(far):
            self.far[here] = True
        self.batches = [list(local_batches(a, WORK)) for a in PAIR]

    def gradient(self, at: Vector, client: int, step: int) -> Vector:
        """Of client i's loss of one batch, by the whole model alone."""
        split = self.split
        session = split.model.session(Params(split.model.layout, at), ALL, split.examples)
        store = session.store(Params(split.model.layout, at), 1)
        session.losses(store, [self.batches[client][step]]).loss.sum().backward()
        found: Vector = store.grad[0].numpy()
        return found

    def joined(self, home: Vector, far: Vector) -> Vector:
        return np.where(self.far, far, home)

    def v1(self) -> list[Vector]:
        ends = []
        for i in range(2):
            w = self.start
            for step in range(2):
                w = w - np.float32(ETA) * self.gradient(w, i, step)
            ends.append(w)
        return ends

    def v2(self) -> list[Vector]:
        homes, s = [self.start, self.start], self.start
        for step in range(2):
            for i in range(2):
                w = self.joined(homes[i], s)
                homes[i] = s = w - np.float32(ETA) * self.gradient(w, i, step)
        return [self.joined(home, s) for home in homes]

    def concat(self) -> list[Vector]:
        homes, s = [self.start, self.start], self.start
        for step in range(2):
            found = [self.gradient(self.joined(homes[i], s), i, step) for i in range(2)]
            homes = [homes[i] - np.float32(ETA) * found[i] for i in range(2)]
            s = s - np.float32(ETA / 2) * (found[0] + found[1])
        return [self.joined(home, s) for home in homes]

    def sequential(self) -> list[Vector]:
        """The second client begins where the first has ended, at home and far away."""
        w, ends = self.start, []
        for i in range(2):
            for step in range(2):
                w = w - np.float32(ETA) * self.gradient(w, i, step)
            ends.append(w)
        return ends


CUTS = (Cut(1, 2), Cut(1, 3, "far"))


@pytest.fixture(params=CUTS, ids=str)
def two(request: pytest.FixtureRequest, model_folder: Folders, ragged: Ragged) -> Two:
    case = CASES["bert"]
    model = fused(case, model_folder, torch.float32)
    return Two(Split(model, start(model), case.examples(ragged), request.param))


def close(found: NDArray[np.float32], wanted: NDArray[np.float32], start: Vector) -> None:
    moved = np.linalg.norm(wanted - start)
    assert moved > 1e-3
    assert np.linalg.norm(found - wanted) < 1e-5 * moved


@pytest.mark.parametrize("mode", ["v1", "concat"])
def test_clients_that_step_together(two: Two, mode: str) -> None:
    results, _ = two.split.at_once(PAIR, WORK, StageOptions(mode))
    for found, wanted in zip(results, getattr(two, mode)(), strict=True):
        close(two.start + found.delta, wanted, two.start)


def test_v2_steps_after_each_client_s_batch(two: Two) -> None:
    split = two.split
    stage = split.stage(WORK, StageOptions("v2"))
    fars = [NearStage(stage, (a.client,), split.codecs()) for a in PAIR]
    results = Backprop().train(split.session(fars), split.params, WORK, PAIR)
    moved = [far.close().numpy()[0] for far in fars]
    np.testing.assert_array_equal(moved[0], moved[1])
    for result, own, wanted in zip(results, moved, two.v2(), strict=True):
        close(two.start + split.joined(result, stage, own).delta, wanted, two.start)


def test_sequential_hands_the_client_s_blocks_on(two: Two) -> None:
    split = two.split
    stage = split.stage(WORK, StageOptions("sequential"))
    params, layout = split.params, split.model.layout
    for own, wanted in zip(PAIR, two.sequential(), strict=True):
        far = NearStage(stage, (own.client,), split.codecs())
        (result,) = Backprop().train(split.session([far]), params, WORK, [own])
        home = layout.gather(params.vector, result.layout) + result.delta
        params = Params(layout, layout.scatter(params.vector, result.layout, home))
        whole = layout.gather(split.params.vector, stage.trained) + far.close().numpy()[0]
        close(layout.scatter(params.vector, stage.trained, whole), wanted, two.start)
