"""Clients that start from tensors of their own: at once, alone, and over rounds of a simulation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, apart, cohort, start
from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of
from stopping import StopsAfter

import fedloom
from fedloom.core.layout import Layout
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.results.rundir import RunDirectory
from fedloom.server.memories import facts_of
from fedloom.simulation.personal import kept_by_clients, own_of
from fedloom.simulation.simulator import Run
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment, LocalResult

WORK = LocalWork(
    epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0, prox_mu=0.1, head_lr=0.02
)


def with_own(layout: Layout) -> list[Assignment]:
    """A cohort of five, of whom each has a head of its own."""
    draw = np.random.default_rng(4)
    size = layout.size
    heads = [draw.normal(scale=0.3, size=size).astype(np.float32) for _ in cohort()]
    pairs = zip(cohort(), heads, strict=True)
    return [replace(one, own=Params(layout, head)) for one, head in pairs]


@pytest.mark.parametrize("engine", ["fused", "transformers"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_client_with_its_own_head_trains_as_if_the_global_model_had_it(
    model_folder: Folders, ragged: Ragged, name: str, engine: str
) -> None:
    case = CASES[name]
    model, examples = case.build(model_folder, "lora", engine=engine), case.examples(ragged)
    params, kept = start(model), model.layout.select(("head",))
    session = model.session(params, ("*",), examples)
    clients = with_own(kept)
    alone = [Backprop().train(session, params, WORK, [one])[0] for one in clients]
    for one, found in zip(clients, alone, strict=True):
        assert one.own is not None
        vector = params.layout.scatter(params.vector, kept, one.own.vector)
        whole = Params(params.layout, vector)
        (plain,) = Backprop().train(session, whole, WORK, [replace(one, own=None)])
        np.testing.assert_array_equal(found.delta, plain.delta)  # to the bit
        assert (found.kept is not None, plain.kept) == (True, None)
        assert found.kept is not None
        moved = found.layout.gather(found.delta, kept)
        np.testing.assert_allclose(found.kept.vector, one.own.vector + moved, atol=1e-6)
    at_once = Backprop().train(session, params, WORK, clients)
    assert apart(at_once, alone) < 1e-5
    for mine, other in zip(at_once, alone, strict=True):
        assert mine.kept is not None
        assert other.kept is not None
        np.testing.assert_allclose(mine.kept.vector, other.kept.vector, rtol=1e-4, atol=1e-6)


def test_some_of_a_chunk_have_their_own(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    params, kept = start(model), model.layout.select(("head",))
    session = model.session(params, ("*",), examples)
    mixed = [one if i % 2 else replace(one, own=None) for i, one in enumerate(with_own(kept))]
    found = Backprop().train(session, params, WORK, mixed)
    alone = [Backprop().train(session, params, WORK, [one])[0] for one in mixed]
    assert apart(found, alone) < 1e-5
    assert [result.kept is not None for result in found] == [False, True, False, True, False]


def test_what_diverged_is_not_whole() -> None:
    layout = Layout(())
    nan, one = np.array([np.nan], dtype=np.float32), np.zeros(0, dtype=np.float32)
    assert LocalResult("a", layout, one, 1, {}, 0.0, 0.0).whole
    assert not LocalResult("a", layout, nan, 1, {}, 0.0, 0.0).whole


def table(models: dict[str, Path], **stage: Any) -> dict[str, Any]:
    """Six rounds of six of thirty clients, LoRA and the head."""
    made = classify_table(models["classify"])
    made["stages"] = [
        {
            "rounds": 6,
            "clients_per_round": 10,
            "keep": ["head"],
            "local": {"lr": 0.1, "batch_size": 8, "momentum": 0.5},
            **stage,
        }
    ]
    return made


def simulate(made: dict[str, Any], folder: Path, **run: Any) -> Run:
    made = {**made, "run": {**made["run"], "directory": str(folder), **run}}
    data = labelled_rows(360, clients=30)
    return fedloom.simulate(made, data=data, observer=Quiet(), resume=folder.exists())


def kept_of(run: Run) -> dict[str, list[float]]:
    """What each client has kept, at the end of a run."""
    model, job = run.prepared.model, run.prepared.job
    layout, told = model.layout.select(job.stages[-1].keep), facts_of(job, model.layout)
    partition = run.prepared.population.partition
    names = [partition.name_of(n) for n in range(len(partition))]
    with kept_by_clients(RunDirectory(run.directory), layout, told, done=job.rounds) as kept:
        assert kept is not None
        return {name: own_of(kept, name, run.params).vector.tolist() for name in names}


def test_the_global_model_s_head_stays_and_only_the_rest_travels(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    run = simulate(table(text_model), tmp_path / "own")
    layout = run.params.layout
    first, head = run.prepared.model.initial(0), layout.select(("head",))
    rest = layout.select(("lora",))
    np.testing.assert_array_equal(
        layout.gather(run.params.vector, head), layout.gather(first.vector, head)
    )
    assert (layout.gather(run.params.vector, rest) != layout.gather(first.vector, rest)).any()
    for way in ("bytes_up", "bytes_down"):
        (bytes_of_all,) = set(run.history[way][1:])
        assert 4 * rest.size <= bytes_of_all / 10 < 4 * rest.size + 100  # ten clients, no head
    everyone = kept_of(run)
    untouched = layout.gather(first.vector, head).tolist()
    changed = [name for name, own in everyone.items() if own != untouched]
    assert 10 < len(changed) <= 30
    assert len({tuple(everyone[name]) for name in changed}) == len(changed)  # all differ


def test_any_number_of_workers_keeps_the_same_bits(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    made = table(text_model)
    one, four = (simulate(made, tmp_path / f"w{n}", workers=n) for n in (1, 4))
    assert kept_of(one) == kept_of(four)
    assert tensors_of(one.directory) == tensors_of(four.directory)


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_interrupted_again_and_again_keeps_the_same_bits(
    every: int, text_model: dict[str, Path], tmp_path: Path
) -> None:
    made, folder = table(text_model), tmp_path / "torn"
    made["evaluate"] = {"clients": 20, "hold_out": 0.3}
    whole = simulate(made, tmp_path / "whole")
    made["run"] |= {"directory": str(folder), "checkpoint_every": every}
    data = labelled_rows(360, clients=30)
    for stop in (0, 1, 3, 5):
        torn = fedloom.simulate(made, data=data, observer=StopsAfter(stop), resume=True)
        assert torn.summary.interrupted
    run = fedloom.simulate(made, data=data, observer=Quiet(), resume=True)
    assert kept_of(run) == kept_of(whole)
    assert numbers_of(folder) == numbers_of(whole.directory)
    assert tensors_of(folder) == tensors_of(whole.directory)
    assert run.summary.own_examples == whole.summary.own_examples


def test_models_are_judged_on_each_client_s_own_examples(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    made = table(text_model, rounds=2, clients_per_round=6)
    made["evaluate"] = {"clients": 30, "hold_out": 0.25}
    made["partition"] = {"name": "dirichlet", "clients": 20, "alpha": 0.1}
    run = simulate(made, tmp_path / "own")
    found = run.summary.own_examples
    assert set(found) == {"accuracy", "loss", "personal_accuracy", "personal_loss"}
    # The head of the global model has never moved; clients' own have, to their own classes.
    assert found["personal_accuracy"] > found["accuracy"]
    assert set(run.summary.per_client) == set(found)
    never = [name for name, own in kept_of(run).items() if own == _first_head(run)]
    told = json.loads((run.directory / "clients.json").read_text())
    assert never
    for name in (name for name in never if name in told):
        # In batches of its own, which may move the last bits.
        assert told[name]["personal_loss"] == pytest.approx(told[name]["loss"], rel=1e-5)


def _first_head(run: Run) -> list[float]:
    layout, first = run.params.layout, run.prepared.model.initial(0)
    return [float(x) for x in layout.gather(first.vector, layout.select(("head",)))]


def test_sharing_a_and_keeping_b_is_a_matter_of_selectors(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    # FedSA-LoRA (Guo et al., ICLR 2025): both train, A is averaged, B stays at home.
    run = simulate(table(text_model, train=["lora"], up=["A"], keep=["B"]), tmp_path / "sa")
    layout, first = run.params.layout, run.prepared.model.initial(0)
    for tag, moves in (("A", True), ("B", False), ("head", False)):
        part = layout.select((tag,))
        before, after = (layout.gather(p.vector, part) for p in (first, run.params))
        assert (before != after).any() == moves, tag
    size = layout.select(("A",)).size
    assert all(4 * size <= n / 10 < 4 * size + 100 for n in run.history["bytes_up"][1:])
    assert any(any(own) for own in kept_of(run).values())


def test_what_is_not_sent_down_stays_as_it_was_at_the_start(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    # All of one round's clients start from the first model in both; in the second round only the
    # head comes down in one, so that LoRA starts anew there.
    both = simulate(table(text_model, keep=[], rounds=2), tmp_path / "all")
    some = simulate(table(text_model, keep=[], rounds=2, down=["head"]), tmp_path / "head")
    size = some.params.layout.select(("head",)).size
    assert some.history["bytes_down"][2] / 10 < 4 * size + 100
    one, other = numbers_of(both.directory), numbers_of(some.directory)
    assert one[1]["evaluation"] == other[1]["evaluation"]
    assert one[2]["evaluation"] != other[2]["evaluation"]


def test_a_warm_up_for_all_then_a_head_for_each(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    made = table(text_model)
    local = made["stages"][0]["local"]
    first = {"name": "all", "rounds": 2, "clients_per_round": 10, "train": ["head"], "local": local}
    second = {"name": "own", "rounds": 2, "clients_per_round": 10, "keep": ["head"], "local": local}
    made["stages"] = [first, second]
    run = simulate(made, tmp_path / "two")
    warm = simulate({**made, "stages": [first]}, tmp_path / "warm")
    layout = run.params.layout
    head = layout.select(("head",))
    common = layout.gather(warm.params.vector, head)
    np.testing.assert_array_equal(layout.gather(run.params.vector, head), common)
    everyone = list(kept_of(run).values())
    assert common.tolist() in everyone  # of those that were not asked in the second stage
    assert any(own != common.tolist() for own in everyone)
