"""Rounds of federated averaging by fedloom on one shape: one measurement, one process.

The path is the simulator's own: population, dispatcher with its pool of threads, learner, codec,
admission, fixed-point sum. Only files and evaluation are left out, as the other systems have none.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.codecs.dense import Float32
from fedloom.core.layout import Selector
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params, State
from fedloom.server.round import run_round
from fedloom.simulation.dispatch import dispatcher
from fedloom.simulation.federation import Federation
from fedloom.simulation.holdings import StoredPartition
from fedloom.simulation.population import Population
from fedloom.strategies.fedavg import fedavg
from fedloom.tuning.base import CohortModel, Session, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.capacity import Capacity, measure_capacity
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.prefix import CacheLimits
from lengths import drawn_lengths, padded_lengths, texts, useful
from measurement import Measurement, Outcome
from memory import peak_mib

__all__ = ["load", "measure", "training_rate"]

CODEC = Float32()
CACHE = CacheLimits(memory=4 << 30)


def measure(asked: Measurement, model: CohortModel | None = None) -> Outcome:
    """Run all rounds and say how long they took.

    Args:
        asked: what is measured.
        model: of `asked`, where it is loaded already.
    """
    model = model or load(asked)
    state = fedavg().init(model.initial(0))
    lengths, population = drawn_lengths(asked), _population(asked)
    capacity = _capacity(asked, model)
    session = _session(asked, model, state, texts(asked, lengths))
    wall, cpu = [], []
    with ThreadPoolExecutor(capacity.workers + 1) as pool:
        for number in range(1, asked.rounds + 1):
            if asked.padding != "packed":
                padded = padded_lengths(asked, population, lengths, number)
                session = _session(asked, model, state, texts(asked, padded))
            federation = Federation(
                partial(_same, session), Backprop(), CODEC, population.rows_of, capacity, pool
            )
            began, busy = time.perf_counter(), time.process_time()
            state = _round(asked, federation, population, state, number)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - busy)
    return Outcome(
        clients_per_second=asked.clients / min(wall),
        cpu_ms_per_client=1000 * min(cpu) / asked.clients,
        peak_memory_mib=peak_mib(asked.device),
        flops_per_client=session.flops(1) * int(lengths.sum()) / asked.clients,
        useful=useful(asked, population, lengths, session, capacity),
        round_seconds=tuple(round(seconds, 4) for seconds in wall),
    )


def training_rate(asked: Measurement, model: CohortModel) -> float:
    """Clients per second of local training alone, all of a chunk at once: the best of four.

    Batches are drawn and laid out, the steps run, and the deltas come back to memory; encoding,
    decoding and folding, which are the processor's work, are left out.
    """
    params, lengths = model.initial(0), drawn_lengths(asked)
    session = model.session(params, ("*",), texts(asked, lengths))
    population, work = _population(asked), LocalWork(batch_size=asked.batch, lr=0.5)
    names = [population.client(i).id for i in range(asked.together)]
    chunk = [Assignment(name, population.rows_of(name), 1, 0) for name in names]
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        Backprop().train(session, params, work, chunk)
        seconds.append(time.perf_counter() - began)
    return asked.together / min(seconds)


def load(asked: Measurement) -> CohortModel:
    """The model of a measurement."""
    adapter = Component("lora", {"rank": 8, "alpha": 16.0, "layers": asked.layers})
    task = Task("causal-lm") if asked.causal else Task("classify", 2, "model")
    return build_model(
        Path(asked.folder),
        adapter,
        task,
        dtype=getattr(torch, asked.dtype),
        device=torch.device(asked.device),
        engine=asked.engine,
    )


def _population(asked: Measurement) -> Population:
    count = asked.clients * asked.samples
    return Population(StoredPartition(np.arange(count), np.arange(0, count + 1, asked.samples)))


def _capacity(asked: Measurement, model: CohortModel) -> Capacity:
    device = torch.device(asked.device)
    found = measure_capacity(model, device, workers=asked.workers, memory_gb=0.0)
    if not asked.together:
        return found
    return replace(
        found, clients=asked.together, tokens=asked.together * asked.batch * asked.tokens
    )


def _session(
    asked: Measurement, model: CohortModel, state: State, examples: TextExamples
) -> Session:
    if not asked.cached or not isinstance(model, FusedModel):
        return model.session(state.params, ("*",), examples)
    cache = model.prefix_cache(state.params, ("*",), examples, order=None, limits=CACHE)
    return model.session(state.params, ("*",), examples, cache)


def _same(session: Session, params: Params, train: Selector) -> Session:
    """The one session, whatever is to train: everything does."""
    return session


def _round(
    asked: Measurement, federation: Federation, population: Population, state: State, number: int
) -> State:
    work = LocalWork(batch_size=asked.batch, lr=0.5)
    cohort = population.cohort(number, asked.clients, work=work)
    sizes = {client.id: 4 * state.params.layout.size for client in cohort.clients}
    dispatch = dispatcher(federation, state.params, sizes)
    after, report = asyncio.run(run_round(fedavg(), state, cohort, dispatch, decode=CODEC.decode))
    if report.accepted != asked.clients:
        raise RuntimeError(f"accepted: {report.accepted} updates, expected {asked.clients}")
    return after


def main() -> None:
    """Measure what the only argument asks for, and print one JSON line."""
    torch.set_num_threads(1)
    keep_large_blocks()
    print(json.dumps(asdict(measure(Measurement.from_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
