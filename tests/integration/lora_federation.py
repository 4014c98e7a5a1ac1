"""Rounds of federated LoRA over small models, by the parts that simulator and devices use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from small_jobs import classify_table, labelled_rows, write_rows

from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import client_update
from fedloom.core.component import Option
from fedloom.core.ranks import limited
from fedloom.core.types import (
    Client,
    ClientId,
    ClientUpdate,
    Cohort,
    Cost,
    LocalWork,
    Params,
    State,
)
from fedloom.server.admission import Admission
from fedloom.sources import job_of
from fedloom.strategies.base import Strategy
from fedloom.strategies.lora.algebra import Matrix
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.data import load_examples
from fedloom.tuning.examples import Examples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.prepare import folder_of
from fedloom.tuning.reading import reading_of

__all__ = ["Federation", "Told", "effect", "error", "federation_of"]

CPU = torch.device("cpu")
CLASSES = ("field", "harbour", "treasury")
EXAMPLES = (24, 8, 16)
WORK = LocalWork(steps=6, batch_size=8, optimizer="adamw", lr=0.1)


@dataclass(frozen=True, eq=False)
class Told:
    """What a client of a round came to.

    Attributes:
        update: as it arrived.
        local: its model.
    """

    update: ClientUpdate
    local: Params


@dataclass(frozen=True, eq=False)
class Federation:
    """A small model and the examples of three clients."""

    model: CohortModel
    examples: Examples

    def clients(self) -> tuple[Client, ...]:
        """Three of unlike sizes."""
        return tuple(Client(f"c{i}", n) for i, n in enumerate(EXAMPLES))

    def round(self, strategy: Strategy, state: State) -> tuple[State, dict[ClientId, Told]]:
        """One round: tasks, training, encoding, admission, aggregation."""
        cohort = Cohort(state.version + 1, self.clients(), WORK, seed=3)
        tasks = strategy.configure(state, cohort)
        admission = Admission(tasks, state.params.layout, Float32().decode)
        told, total, first = {}, None, 0
        for client in cohort.clients:
            task = tasks[client.id]
            start = limited(state.params, task.rank)
            rows = np.arange(first, first + client.num_examples)
            first += client.num_examples
            session = self.model.session(start, task.selectors.train, self.examples)
            one = [Assignment(client.id, rows, task.round, task.seed)]
            (found,) = Backprop().train(session, start, task.work, one)
            sent = client_update(
                task,
                found.layout,
                found.delta,
                Float32(),
                num_examples=found.num_examples,
                metrics=found.metrics,
                cost=Cost(),
                model=start.layout,
            )
            local = start.having(
                Params(found.layout, start.only(found.layout).vector + found.delta)
            )
            told[client.id] = Told(admission.admit(sent), local)
            total = strategy.accumulate(total, told[client.id].update)
        return strategy.apply(state, total)[0], told


def federation_of(
    backbone: Path, folder: Path, quantization: str = "", **adapter: Option
) -> Federation:
    """A federation over a small backbone, which may be stored in fewer bits."""
    table = classify_table(backbone, write_rows(folder / "rows.jsonl", labelled_rows()))
    table["backbone"] |= {"quantization": quantization, "kernel": "dequantize"}
    table["adapter"] = {"name": "lora", "rank": 2, **adapter}
    job = job_of(table)
    own = folder_of(job.backbone, CPU, lambda text: None)
    model = model_of(job, own, CLASSES, dtype=torch.float32, device=CPU)
    examples = load_examples(job.data, reading_of(job.backbone, own), seed=0).train
    return Federation(model, examples)


def effect(model: CohortModel, params: Params, examples: Examples) -> Mapping[str, Matrix]:
    """What is added to each frozen weight ``[d_out, d_in]``, in the trainer's own forward."""
    session = model.session(params, ("*",), examples)
    store = session.store(params, 1)
    found = {}
    for spec in params.layout:
        module, is_a, _ = spec.name.partition(".lora_A")
        if is_a:
            site = store.sites[module].after
            assert site is not None
            d_out = params.layout.specs[params.layout.names.index(f"{module}.lora_B.weight")].shape[
                0
            ]
            with torch.no_grad():
                unit, zeros = torch.eye(spec.shape[1])[None], torch.zeros(1, spec.shape[1], d_out)
                found[module] = site.forward(unit, zeros)[0][0].T.double().numpy()
    return found


def error(federation: Federation, after: Params, told: Mapping[ClientId, Told]) -> float:
    """How far the global model is from the mean of what clients add, relative to it, at most."""
    whole = sum(one.update.num_examples for one in told.values())
    wanted: dict[str, Matrix] = {}
    for one in told.values():
        for module, added in effect(federation.model, one.local, federation.examples).items():
            share = one.update.num_examples / whole
            wanted[module] = wanted.get(module, np.zeros_like(added)) + share * added
    now = effect(federation.model, after, federation.examples)
    apart = [np.linalg.norm(now[m] - wanted[m]) / np.linalg.norm(wanted[m]) for m in wanted]
    return float(max(apart))
