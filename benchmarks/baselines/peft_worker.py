"""One rank of the sequential `peft` loop: federated averaging without a framework."""

import sys
import time
from importlib.metadata import version

import peft
import torch
import transformers
from torch import Tensor, distributed

from baselines.job import Job, Outcome, report
from baselines.model import ResidentModel, peak_rss_mib


def main(job: Job) -> None:
    """Run all rounds on this rank; the first rank reports."""
    torch.set_num_threads(job.threads)
    rank, ranks = _join(job)
    model = ResidentModel(job.what, job.dtype, job.attention)
    start = model.weights.clone()
    current = start.clone()
    first_update = torch.zeros_like(start)
    seconds, cpu = [], []
    for number in range(job.rounds):
        _wait(ranks)
        began, busy = time.perf_counter(), time.process_time()
        update = _round(model, current, range(rank, job.clients, ranks), job.clients, ranks)
        current += update
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - busy)
        if number == 0:
            first_update = update
    steps = int(_sum(torch.tensor(model.counter.steps), ranks))
    total_cpu = tuple(_sum(torch.tensor(cpu), ranks).tolist())
    if rank == 0:
        first = first_update.numpy()
        report(job, Outcome(tuple(seconds), steps, first, peak_rss_mib(), _versions(), total_cpu))
    if ranks > 1:
        distributed.destroy_process_group()


def _round(model: ResidentModel, start: Tensor, clients: range, cohort: int, ranks: int) -> Tensor:
    """Train this rank's clients from `start` `[P]`; return the mean delta of the cohort `[P]`."""
    total = torch.zeros_like(start)
    for client in clients:
        model.weights.copy_(start)
        model.local_epoch(client)
        total.add_(model.weights).sub_(start)
    return _sum(total, ranks).div_(cohort)


def _join(job: Job) -> tuple[int, int]:
    if job.processes == 1:
        return 0, 1
    distributed.init_process_group("gloo")
    return distributed.get_rank(), distributed.get_world_size()


def _wait(ranks: int) -> None:
    if ranks > 1:
        distributed.barrier()


def _sum(value: Tensor, ranks: int) -> Tensor:
    if ranks > 1:
        distributed.all_reduce(value)
    return value


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "numpy": version("numpy"),
    }


if __name__ == "__main__":
    main(Job.from_json(sys.argv[1]))
