"""A device of a split job, over a far side in this process, finds the simulator's bits."""

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from near_sides import Near
from small_jobs import causal_table, classify_table, labelled_rows
from torch import Tensor

import fedloom
from fedloom.backbones.portion import write_portion
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.span import SpanPlan
from fedloom.client.split_work import Connect, SplitWork
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import changed, sent_down, with_far
from fedloom.core.split import session_plan
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Delta,
    Params,
    Payload,
    Selectors,
)
from fedloom.progress import Quiet
from fedloom.simulation.branches import Branch
from fedloom.simulation.federation import Federation
from fedloom.simulation.setup import Prepared
from fedloom.simulation.simulator import Run
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.near import Codecs, NearStage
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.stage import Stage

SETTINGS = ClientSettings(threads=1, device="cpu", cache_gb=0.0)
NAME = "a" * 64  # of the job's manifest


@dataclass
class Devices:
    """The devices of a job, each over a far side of its own, in place of the simulator's chunks."""

    prepared: Prepared
    scratch: Path
    plans: list[SpanPlan] = field(default_factory=list)
    workers: dict[tuple[ClientId, int | None], Worker] = field(default_factory=dict)

    def dispatcher(
        self,
        federation: Federation,
        params: Params,
        bytes_down: Mapping[ClientId, int],
        briefing: Briefing,
        *,
        branches: Mapping[str, Branch],
        cut: Callable[[int], Branch | None],
    ) -> Callable[[Mapping[ClientId, ClientTask]], AsyncIterator[ClientUpdate]]:
        assert not branches  # models of their own do not go with a split

        async def dispatch(tasks: Mapping[ClientId, ClientTask]) -> AsyncIterator[ClientUpdate]:
            for task in tasks.values():
                yield self._done(params, task)

        return dispatch

    def _done(self, params: Params, task: ClientTask) -> ClientUpdate:
        split = self.prepared.split
        assert split is not None
        here, train, fars = split.at(task.bottom), task.selectors.train, list[Near]()

        def connect(plan: SpanPlan) -> Near:
            assert (plan.first, plan.last) == (here.cut.first, here.cut.last)
            options = StageOptions(split.config.mode)
            stage = Stage(split.model, params, train, task.work, cut=here.cut, options=options)
            up, down = codec_named(plan.up), codec_named(plan.down)
            codecs = Codecs(up, down, seed=plan.seed, round=plan.round)
            fars.append(Near(NearStage(stage, (plan.client,), codecs), stage))
            self.plans.append(plan)
            return fars[-1]

        part = split.sent(changed([Selectors(train=train)], params.layout))
        frame = sent_down(params, Float32(), part, version=0).frame
        worker = self._worker(task, connect)
        finished, payload = worker.train(Order(task, 0), "ticket", frame)
        (near,) = fars
        assert near.calls[-2:] == ["sync", "close"]
        assert near.moved is not None
        arrived = Float32().decode(Payload("float32", payload), here.home(params.layout))
        far = Delta(near.stage.trained, near.moved[0].numpy())
        count = finished.num_examples
        update = ClientUpdate(task.client, task.round, count, metrics=finished.metrics)
        return with_far(update, arrived, far)

    def _worker(self, task: ClientTask, connect: Connect) -> Worker:
        prepared, key = self.prepared, (task.client, task.bottom)
        split, job = prepared.split, prepared.job
        assert split is not None
        most = split.at(split.most).cut.home(split.model.depth)
        portion = write_portion(prepared.folder, self.scratch / "portion", most)
        work = SplitWork(job, NAME, portion, connect, self.scratch, task.bottom)
        if key not in self.workers:
            corpus, rows = prepared.corpus, prepared.population.rows_of(task.client)
            corpus = replace(corpus, train=corpus.train.take(rows))
            digest = split.model.layout.digest
            manifest = Manifest("f", job, tuple(corpus.classes), digest, ())
            self.workers[key] = Worker(
                manifest, portion, corpus, SETTINGS, self.scratch, split=work
            )
        worker = self.workers[key]
        worker.split = work
        return worker


@pytest.fixture
def folders(
    model_folder: dict[tuple[str, str], Path], text_model: dict[str, Path], tmp_path: Path
) -> dict[str, Path]:
    """Models by family, with a tokenizer beside them."""
    gpt2, bert = tmp_path / "gpt2", text_model["classify"]
    shutil.copytree(model_folder["gpt2", "AutoModelForCausalLM"], gpt2)
    shutil.copyfile(bert / "tokenizer.json", gpt2 / "tokenizer.json")
    return {"bert": bert, "gpt2": gpt2}


def table_of(family: str, model: Path, own: Path) -> dict[str, Any]:
    table = classify_table if family == "bert" else causal_table
    job = table(model)
    job["stages"] = [STAGE]
    for key in ("rounds", "clients_per_round", "local"):
        job.pop(key, None)
    job["run"] |= {"directory": str(own / "run"), "cache_gb": 0.0, "clients_at_once": 1}
    return job


STAGE: dict[str, Any] = {
    "rounds": 2,
    "clients_per_round": 2,
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4},
}
CUTS = {"bert": {"bottom": 1, "top": 1}, "gpt2": {"bottom": 1, "top": 0}}


def played(table: dict[str, Any], clients: int) -> Run:
    rows = labelled_rows(24 * clients, clients=clients)
    return fedloom.simulate(table, data=rows, observer=Quiet(), overwrite=True)


def by_devices(
    table: dict[str, Any], clients: int, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Run, Run, Devices]:
    """The run in the simulator, and with devices."""
    run = played(table, clients)
    devices = Devices(run.prepared, scratch / "device")
    devices.scratch.mkdir()
    monkeypatch.setattr("fedloom.simulation.stage.dispatcher", devices.dispatcher)
    return run, played(table, clients), devices


@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("labels", ["home", "far"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_devices_end_where_the_simulator_does(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    labels: str,
    clients: int,
) -> None:
    table = table_of(family, folders[family], tmp_path)
    codecs = {"codec_up": "int8", "codec_down": "bf16"}
    table["split"] = {"mode": "v1", "labels": labels, **CUTS[family], **codecs}
    run, found, devices = by_devices(table, clients, tmp_path, monkeypatch)
    assert found.params.vector.tobytes() == run.params.vector.tobytes()
    start = run.prepared.model.initial(run.prepared.job.seed)
    assert found.params.vector.tobytes() != start.vector.tobytes()
    for key in ("loss", "metrics.accuracy", "metrics.delta_norm", "evaluation.loss"):
        np.testing.assert_array_equal(found.history[key], run.history[key])
    assert {plan.plan for plan in devices.plans} == {session_plan(NAME, n) for n in (1, 2)}
    assert {plan.far_labels for plan in devices.plans} == {labels == "far"}


def test_each_device_has_the_blocks_of_its_own_cut(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One kind of device has two blocks below the far one, the other none; all fetch the two.
    table = table_of("bert", folders["bert"], tmp_path)
    table["split"] = {"mode": "v1", "bottom": 0, "top": 0}
    table["tiers"] = [
        {"name": "small", "share": 0.5},
        {"name": "large", "share": 0.5, "bottom": 2},
    ]
    run, found, devices = by_devices(table, 4, tmp_path, monkeypatch)
    assert found.params.vector.tobytes() == run.params.vector.tobytes()
    hollow = {
        bottom: [is_hollow(worker, i) for i in range(3)]
        for (_, bottom), worker in devices.workers.items()
    }
    assert hollow == {None: [True, True, True], 2: [False, False, True]}
    assert {plan.first for plan in devices.plans} == {0, 2}


def is_hollow(worker: Worker, block: int) -> bool:
    model = worker._model
    assert isinstance(model, FusedModel)
    weights = [product.weight for product in model.backbone.layers[block].products]
    return all(isinstance(weight, Tensor) and weight.is_meta for weight in weights)
