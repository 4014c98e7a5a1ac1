"""A run directory with plausible numbers, for tests of what is made from one."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.core.job import job_from
from fedloom.core.types import Refusal
from fedloom.results.observe import RoundLine, Summary, spread
from fedloom.results.rundir import RunDirectory

BYTES = 590_000


def synthetic_run(
    path: Path, *, done: int = 24, speed: float = 7.0, **changes: Any
) -> RunDirectory:
    """A run of 4 + 20 rounds on 60 clients and 8 labels, of which `done` are over."""
    stages = [{"name": "warm-up", "rounds": 4}, {"name": "train", "rounds": 20}]
    table = {"name": path.name, "stages": stages, "run": {"directory": str(path)}, **changes}
    run = RunDirectory.create(job_from(table))
    for number in range(done + 1):
        run.append(_line(number, speed))
    _partition(run)
    if done == 24:
        _finish(run, speed)
    return run


def _accuracy(number: int, speed: float) -> float:
    return 0.03 + 0.85 * (1 - math.exp(-number / speed)) + 0.01 * math.sin(5 * number)


def _line(number: int, speed: float) -> RoundLine:
    accuracy = _accuracy(number, speed)
    refused = (Refusal("client-07", "delta has NaN"),) if number in (5, 9) else ()
    if number == 9:
        refused = (*refused, Refusal("client-<b>31</b>", "delta norm 1e9 above 100"))
    return RoundLine(
        number,
        "warm-up" if number <= 4 else "train",
        accepted=10 - len(refused) if number else 0,
        refused=len(refused),
        loss=3 * math.exp(-number / 8) + 0.3 if number else math.nan,
        evaluation={"accuracy": accuracy, "loss": 2.5 * math.exp(-number / 9) + 0.4}
        if number % 2 == 0
        else {},
        bytes_up=10 * BYTES if number else 0,
        bytes_down=10 * BYTES if number else 0,
        total_bytes_up=number * 10 * BYTES,
        total_bytes_down=number * 10 * BYTES,
        seconds=1.5 if number else 0.0,
        elapsed=number * 1.5,
        round_seconds=41.0 if number else 0.0,
        simulated_seconds=number * 41.0,
        joules=300.0 if number else 0.0,
        total_joules=number * 300.0,
        clients_per_second=9.0 if number else 0.0,
        refusals=refused,
    )


def _partition(run: RunDirectory) -> None:
    rng = np.random.default_rng(0)
    sizes = {f"client-{i:02d}": int(n) for i, n in enumerate(rng.lognormal(4, 0.8, 60))}
    labels = {}
    for client, size in sizes.items():
        counts = rng.multinomial(size, rng.dirichlet(np.full(8, 0.4)))
        labels[client] = {f"label {k}": int(n) for k, n in enumerate(counts) if n}
    run.write_partition(sizes, labels, {"clients": 60.0, "label skew": 0.61})


def _finish(run: RunDirectory, speed: float) -> None:
    rng = np.random.default_rng(1)
    values = np.clip(rng.normal(0.8, 0.12, 60), 0, 1)
    clients = {f"client-{i:02d}": {"accuracy": float(v)} for i, v in enumerate(values)}
    run.write_clients(clients)
    run.write_summary(
        Summary(
            before={"accuracy": 0.03, "loss": 2.9},
            after={"accuracy": _accuracy(24, speed), "loss": 0.57, "macro_f1": 0.83},
            rounds=24,
            elapsed=36.0,
            directory=run.path,
            references={"central": {"accuracy": 0.905}, "local": {"accuracy": 0.52}},
            per_client=spread(clients),
        )
    )
