"""HetLoRA's clients: the price on their last ranks, and how they give them up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, apart, cohort, start
from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of
from stopping import StopsAfter

import fedloom
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.ranks import factor_pairs, limited, of_rank
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.hetlora import HetLora, Tail
from fedloom.tuning.learning import Assignment
from fedloom.tuning.own import first_held

WORK = LocalWork(epochs=1, batch_size=4, lr=0.05)
LORA = Component("lora", {"rank": 4})
FRAME = 28
DATA = labelled_rows(240, clients=12)


def of_rank_4(rank: int | None) -> list[Assignment]:
    return [replace(one, rank=rank) for one in cohort()]


def price_of(params: Params, first: int) -> torch.Tensor:
    """The regulariser by torch's own gradients: what each number costs at the margin."""
    vector = torch.from_numpy(params.vector.copy()).requires_grad_()
    whole = torch.zeros(())
    for a, b in factor_pairs(params.layout):
        rows = vector[params.layout.span(a.name)].reshape(a.shape)[first:]
        columns = vector[params.layout.span(b.name)].reshape(b.shape)[:, first:]
        whole = whole + rows.norm() * columns.norm()
    whole.backward()
    assert vector.grad is not None
    return vector.grad


# With rank 3 and gamma = 0.7, floor(2.1) = 2 ranks come before the tail.
@pytest.mark.parametrize(("rank", "first"), [(None, 2), (3, 2), (1, 1)])
def test_one_step_is_along_the_gradient_and_the_prices(
    model_folder: Folders, ragged: Ragged, rank: int | None, first: int
) -> None:
    case, work = CASES["bert"], replace(WORK, steps=1)
    model, examples = case.build(model_folder, LORA), case.examples(ragged)
    params = limited(start(model), rank)
    session = model.session(params, ("*",), examples)
    learner, clients = HetLora(decay=0.7, price=3.0), of_rank_4(rank)
    plain = Backprop().train(session, params, work, clients)
    found = learner.train(session, params, work, clients)
    price = price_of(params, first).nan_to_num().numpy()
    assert (rank == 1) == (not price.any())
    for mine, bare in zip(found, plain, strict=True):
        np.testing.assert_allclose(mine.delta, bare.delta - 0.05 * 3.0 * price, atol=1e-6)


def test_at_once_is_one_by_one(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, LORA), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("*",), examples)
    learner, clients = HetLora(decay=0.5, price=0.3), of_rank_4(None)
    alone = [learner.train(session, params, WORK, [one])[0] for one in clients]
    at_once = learner.train(session, params, WORK, clients)
    assert apart(at_once, alone) < 1e-5
    assert [one.rank for one in at_once] == [one.rank for one in alone]


def test_a_rank_is_given_up_where_its_tail_has_shrunk_and_only_there(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, LORA), case.examples(ragged)
    params = start(model)
    session, pairs = model.session(params, ("*",), examples), tuple(factor_pairs(params.layout))
    for price, wanted in ((0.0, None), (5.0, 2)):
        for one in of_rank_4(None):
            (found,) = HetLora(decay=0.6, price=price).train(session, params, WORK, [one])
            after, tail = Params(params.layout, params.vector + found.delta), Tail(pairs, 2, price)
            shrunk = tail.size(after) < tail.size(params)
            assert found.rank == (2 if shrunk else 4)
            assert wanted in (None, found.rank)
    zero = limited(params, 2)  # there is no tail that could shrink
    (found,) = HetLora(decay=0.6).train(session, zero, WORK, [replace(cohort()[0], rank=2)])
    assert found.rank == 2 or Tail(pairs, 1, 0.0).size(zero) > 0


def test_what_the_client_keeps_is_pruned_with_it(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, LORA), case.examples(ragged)
    params = start(model)
    session, mine = model.session(params, ("*",), examples), params.layout.select(("B",))
    one = replace(cohort()[0], own=first_held(mine, params))
    (found,) = HetLora(decay=0.5, price=5.0).train(session, params, WORK, [one])
    assert found.rank == 2
    assert found.kept is not None
    for spec in mine:
        kept = found.kept.layout.view(found.kept.vector, spec.name)
        assert kept[:, :2].any()
        assert not kept[:, 2:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"decay": 1.0}, "decay = 1.0: above 0 and below 1"), ({"price": -1.0}, "price = -1.0: 0 or")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HetLora(**options)


def table(models: dict[str, Path], folder: Path, **changes: Any) -> dict[str, Any]:
    """Six of twelve clients, of rank 4 or 2, a price that shrinks any tail."""
    made = classify_table(models["classify"])
    made["adapter"] = {"name": "lora", "rank": 4}
    made["learner"] = {"name": "hetlora", "decay": 0.5, "price": 2.0}
    local = {"optimizer": "adamw", "lr": 0.02, "batch_size": 4}
    stage = {"name": "one", "rounds": 5, "clients_per_round": 6, "local": local}
    strategy = {"name": "hetlora", "ranks": [[2, 0.5], [4, 0.5]]}
    made["stages"] = [{**stage, "strategy": strategy}]
    made["run"] |= {"directory": str(folder)}
    return made | changes


def simulated(made: dict[str, Any], stop: int = 0) -> Run:
    observer = StopsAfter(stop) if stop else Quiet()
    return fedloom.simulate(made, data=DATA, observer=observer, resume=True)


def test_pruned_ranks_come_down_pruned_and_are_remembered_through_interruptions(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    run = simulated(table(text_model, tmp_path / "whole"))
    torn = table(text_model, tmp_path / "torn")
    for stop in (2, 3, 0):
        simulated(torn, stop)
    assert tensors_of(tmp_path / "whole") == tensors_of(tmp_path / "torn")
    assert numbers_of(tmp_path / "whole") == numbers_of(tmp_path / "torn")
    assert not np.asarray(run.history["refused"]).any()
    rank, down = run.history["metrics.rank"][1:], run.history["bytes_down"][1:]
    assert rank[-1] < rank[1] <= 4
    layout = run.params.layout
    sizes = {r: 4 * of_rank(layout, r).size + FRAME for r in (2, 4)}
    dealt = {n * sizes[2] + (6 - n) * sizes[4] for n in range(7)}
    assert down[0] in dealt
    assert down[-1] < min(dealt)  # some are of rank 1 by now


def test_the_same_through_chunks_of_one(text_model: dict[str, Path], tmp_path: Path) -> None:
    runs = []
    for most in (0, 1):
        made = table(text_model, tmp_path / str(most))
        made["run"]["clients_at_once"] = most
        runs.append(simulated(made))
    np.testing.assert_allclose(runs[0].params.vector, runs[1].params.vector, atol=1e-4)
    ranks = [list(run.history["metrics.rank"][1:]) for run in runs]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "fedavg"}, "learner 'hetlora': strategy 'fedavg' takes whole updates"),
        ({"adapter": {"name": "ia3"}}, "learner 'hetlora': adapter 'ia3' has no rank that clients"),
    ],
)
def test_what_cannot_prune_is_refused_before_the_first_round(
    changes: dict[str, Any], message: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    made = table(text_model, tmp_path / "run")
    made["stages"][0]["strategy"] = changes.get("strategy", "hetlora")
    made["adapter"] = changes.get("adapter", made["adapter"])
    with pytest.raises(ConfigError, match=message):
        simulated(made)
    assert not (tmp_path / "run").exists()
