"""A client that diverges says so in its own delta, and changes no bit of anyone else's."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from numpy.typing import NDArray

from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.examples import ImageExamples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import LocalResult
from fedloom.tuning.store import Store

WORKS = {
    "sgd": LocalWork(epochs=2, batch_size=4, lr=0.1, momentum=0.9, clip_norm=1.0),
    "adamw": LocalWork(epochs=2, batch_size=4, optimizer="adamw", lr=0.01, prox_mu=0.1),
}


@dataclass
class Spoiled:
    """A session in which one row of the store starts at a value from which nothing recovers."""

    inner: Session
    row: int
    value: float

    def store(self, params: Params, clients: int) -> Store:
        store = self.inner.store(params, clients)
        if self.row >= 0:
            store.values[self.row] = self.value
        return store

    def losses(self, store: Store, rows: Rows) -> Losses:
        return self.inner.losses(store, rows)

    def tokens(self, rows: NDArray[np.int64]) -> int:
        return self.inner.tokens(rows)

    def flops(self, tokens: int) -> float:
        return self.inner.flops(tokens)

    def memory(self, tokens: int, *, backward: bool) -> int:
        return self.inner.memory(tokens, backward=backward)

    def over(self, rows: NDArray[np.int64]) -> "Spoiled":
        return self


def by_client(found: list[LocalResult]) -> dict[str, LocalResult]:
    return {result.client: result for result in found}


@pytest.mark.parametrize(("engine", "optimizer"), [("fused", "adamw"), ("transformers", "sgd")])
@pytest.mark.parametrize(
    ("name", "adapter"),
    [("bert", "lora"), ("bert-mean", "bottleneck"), ("llama", "ia3"), ("gpt2-lm", "bitfit")],
)
def test_the_others_keep_their_bits(
    model_folder: Folders, ragged: Ragged, engine: str, optimizer: str, name: str, adapter: str
) -> None:
    case, work = CASES[name], WORKS[optimizer]
    model, examples = (
        case.build(model_folder, Component(adapter), engine=engine),
        case.examples(ragged),
    )
    params = start(model)
    session = model.session(params, ("*",), examples)
    # Rows of the store go by steps: 13 examples of c3 first, 3 examples of c2 last.
    well = by_client(Backprop().train(Spoiled(session, -1, 0), params, work, cohort()))
    for row, client, value in ((0, "c3", float("inf")), (0, "c3", 1e30), (4, "c2", float("nan"))):
        found = by_client(Backprop().train(Spoiled(session, row, value), params, work, cohort()))
        for other in set(well) - {client}:
            assert np.array_equal(found[other].delta, well[other].delta)
            assert found[other].metrics == well[other].metrics
        assert not np.array_equal(found[client].delta, well[client].delta)
        if not np.isfinite(value):
            assert not np.isfinite(found[client].delta).all()
            assert not np.isfinite(found[client].metrics["loss"])


@pytest.mark.parametrize("engine", ["fused", "transformers"])
def test_bad_data_of_one_client(model_folder: Folders, ragged: Ragged, engine: str) -> None:
    case, work = CASES["vit"], WORKS["sgd"]
    model = case.build(model_folder, "lora", engine=engine)
    params = start(model)
    good = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    bad = good.copy()
    bad[9:14] = np.nan  # the examples of c1
    deltas = []
    for pixels in (good, bad):
        session = model.session(params, ("*",), ImageExamples(pixels, ragged[2]))
        found = Backprop().train(session, params, work, cohort())
        deltas.append({r.client: r.delta for r in found})
    assert not np.isfinite(deltas[1].pop("c1")).all()
    for client, delta in deltas[1].items():
        assert np.array_equal(delta, deltas[0][client])


@pytest.mark.parametrize("engine", ["fused", "transformers"])
def test_a_learning_rate_without_measure(
    model_folder: Folders, ragged: Ragged, engine: str
) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, "lora", engine=engine)
    params = start(model)
    session = model.session(params, ("*",), case.examples(ragged))
    work = LocalWork(epochs=3, batch_size=4, lr=1e30)
    for result in Backprop().train(session, params, work, cohort()):
        assert not np.isfinite(result.delta).all()
