"""Runs a system in processes of its own, bounds its time and measures its memory.

The launching process imports none of the systems; it only samples and waits.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from baselines.job import ATTENTIONS, DTYPES, Job
from baselines.work import WORKS

_SAMPLE_SECONDS = 0.5
_LOG_TAIL = 4000


class WorkerError(RuntimeError):
    """A worker failed or ran out of time."""


@dataclass(frozen=True)
class System:
    """A system to measure."""

    name: str
    """Its name in the output."""

    worker: str
    """The module that does the work, given a job as its only argument."""

    spawns_itself: bool = False
    """Whether the system starts its own training processes from one worker."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the worker is started with."""


@dataclass
class _Memory:
    """The highest memory seen over the processes of a worker."""

    peak_pss_mib: float = 0.0
    processes: int = 0

    def sample(self, pids: Sequence[int]) -> None:
        """Sum the proportional set sizes of these processes and all their descendants."""
        tree = list(_tree(pids))
        sizes = [_pss_mib(process) for process in tree]
        self.peak_pss_mib = max(self.peak_pss_mib, sum(sizes))
        self.processes = max(self.processes, len(tree))


def main(system: System) -> None:
    """Measure one system as the command line asks and print one JSON line."""
    parser = _parser(system.name)
    options = parser.parse_args()
    # pfl draws one client for each process at a time, so that others would not train exactly once.
    if options.clients < 2 or options.clients % options.processes:
        parser.error("--clients: must be at least 2 and a multiple of --processes")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            work=options.work,
            clients=options.clients,
            rounds=options.rounds,
            dtype=options.dtype,
            attention=options.attention,
            processes=options.processes,
            threads=options.threads,
            report=str(Path(folder, "report.json")),
            update=str(options.save_update.resolve()) if options.save_update else "",
        )
        memory = _run(system, job, options.limit)
        measured = json.loads(Path(job.report).read_text(encoding="utf-8"))
    print(json.dumps(_line(system, job, memory, measured)))


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m baselines.{name}")
    parser.add_argument("--work", choices=tuple(WORKS), default="minilm")
    parser.add_argument("--clients", type=int, default=32, help="clients of every round")
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds; the best is reported")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--attention", choices=ATTENTIONS, default="sdpa")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds before it is stopped")
    parser.add_argument("--save-update", type=Path, help="file for the first aggregate (.npy)")
    return parser


def _line(
    system: System, job: Job, memory: _Memory, measured: Mapping[str, Any]
) -> dict[str, object]:
    alone = memory.processes <= 1
    values = dict(measured)
    peak_rss = values.pop("peak_rss_mib")
    versions = {"python": platform.python_version()} | values.pop("versions")
    return {
        "system": system.name,
        "work": job.work,
        "dtype": job.dtype,
        "attention": job.attention,
        "processes": job.processes,
        "threads": job.threads,
        "clients": job.clients,
        **values,
        "peak_memory_mib": peak_rss if alone else round(memory.peak_pss_mib, 1),
        "memory_kind": "peak RSS" if alone else f"PSS of {memory.processes} processes",
        "versions": versions,
    }


def _run(system: System, job: Job, limit: float) -> _Memory:
    """Start the workers, sample their memory until all have ended, and stop them at the limit.

    Raises:
        WorkerError: A worker failed, or the limit passed.
    """
    ranks = 1 if system.spawns_itself else job.processes
    memory = _Memory()
    deadline = time.monotonic() + limit
    log_path = Path(job.report).with_suffix(".log")
    with log_path.open("wb") as log, _workers(system, job, ranks, log.fileno()) as workers:
        while any(worker.poll() is None for worker in workers):
            memory.sample([worker.pid for worker in workers])
            failed = any(worker.poll() not in (None, 0) for worker in workers)
            if failed or time.monotonic() > deadline:
                break
            time.sleep(_SAMPLE_SECONDS)
        codes = [worker.poll() for worker in workers]
    if any(codes) or None in codes:
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
        raise WorkerError(
            f"exit codes {codes} (None: stopped after {limit:g} s or a failure)\n{tail}"
        )
    return memory


@contextmanager
def _workers(
    system: System, job: Job, ranks: int, log: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", system.worker, job.to_json()]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **_ranked(job, rank, ranks, port), **system.environment},
            stdout=log,
            stderr=log,
        )
        for rank in range(ranks)
    ]
    try:
        yield workers
    finally:
        for process in list(_tree([worker.pid for worker in workers])):
            with suppress(psutil.Error):
                process.kill()
        for worker in workers:
            worker.wait()


def _ranked(job: Job, rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what `torchrun` would set; pfl joins no group without the run identifier."""
    environment = {"OMP_NUM_THREADS": str(job.threads)}
    if ranks > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "baselines",
        }
    return environment


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _tree(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            yield from [process, *process.children(recursive=True)]


def _pss_mib(process: psutil.Process) -> float:
    """Return the resident memory of a process with shared pages divided by their users."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0
