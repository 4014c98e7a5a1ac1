"""One rank of the same federated averaging through `pfl` (Apple's pfl-research)."""

import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, distributed, nn

from baselines.job import Job, Outcome, UnequalWorkError, report
from baselines.model import (
    StepCounter,
    build_model,
    client_tensors,
    flatten,
    peak_rss_mib,
    product_dtype,
    trainable,
)


class _Classifier(nn.Module):
    """The model with the two methods that `pfl` asks a model for."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.peft = build_model(job.what, job.dtype, job.attention)

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        loss: Tensor = self.peft(input_ids=ids, labels=labels).loss
        return loss

    def metrics(self, ids: Tensor, labels: Tensor) -> dict[str, object]:
        """Return a metric without a forward pass.

        `pfl` always evaluates its first iteration, which no other system does here.
        """
        return {"samples": Weighted.from_unweighted(len(ids))}


class _Rounds:
    """A `pfl` callback: times each round and keeps the weights after the first."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._last = self._last_cpu = 0.0
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.weights = flatten(parameters)

    def on_train_begin(self, *, model: object) -> Any:
        """Start the clock when all ranks are ready."""
        if distributed.is_initialized():
            distributed.barrier()
        self._last, self._last_cpu = time.perf_counter(), time.process_time()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: object, model: object, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Stop the clock of a round and start that of the next."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self.cpu.append(time.process_time() - self._last_cpu)
        if central_iteration == 0:
            self.weights = flatten(self._parameters)
        self._last, self._last_cpu = time.perf_counter(), time.process_time()
        return False, Metrics()

    def on_train_end(self, *, model: object) -> None:
        """Nothing is left to do."""


def main(job: Job) -> None:
    """Run all rounds on this rank; the first rank reports."""
    _check_group(job)
    torch.set_num_threads(job.threads)
    # pfl seeds its datasets from numpy's global generator, which all ranks must share.
    np.random.seed(job.what.seed)
    classifier = _Classifier(job)
    parameters = trainable(classifier)
    start = flatten(parameters)
    counter = StepCounter()
    rounds = _Rounds(parameters)
    _algorithm_run(job, _model(job, classifier, counter), rounds)
    steps, cpu = torch.tensor(counter.steps), torch.tensor(rounds.cpu)
    if distributed.is_initialized():
        distributed.all_reduce(steps)
        distributed.all_reduce(cpu)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        update = (rounds.weights - start).numpy()
        seconds = tuple(rounds.seconds)
        times = tuple(cpu.tolist())
        report(job, Outcome(seconds, int(steps), update, peak_rss_mib(), _versions(), times))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _check_group(job: Job) -> None:
    """Refuse ranks that pfl, when imported, did not join to a group: each trains all clients."""
    joined = distributed.get_world_size() if distributed.is_initialized() else 1
    if joined != job.processes:
        raise UnequalWorkError(f"ranks in pfl's group: {joined}, expected {job.processes}")


def _algorithm_run(job: Job, model: Any, rounds: _Rounds) -> None:
    work = job.what
    settings = NNAlgorithmParams(
        central_num_iterations=job.rounds,
        evaluation_frequency=job.rounds,
        train_cohort_size=job.clients,
        val_cohort_size=0,
    )
    local = NNTrainHyperParams(
        local_num_epochs=1,
        local_learning_rate=work.learning_rate,
        local_batch_size=work.batch,
    )
    data = _dataset(job)
    FederatedAveraging().run(
        settings,
        SimulatedBackend(training_data=data, val_data=data),
        model,
        local,
        callbacks=[rounds],
        send_metrics_to_platform=False,
    )


def _model(job: Job, classifier: nn.Module, counter: StepCounter) -> Any:
    def local_optimizer(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        chosen = [parameter for parameter in parameters if parameter.requires_grad]
        return counter.watch(torch.optim.SGD(chosen, lr=lr))

    return PyTorchModel(
        classifier,
        local_optimizer,
        torch.optim.SGD(trainable(classifier), lr=1.0),
        amp_dtype=product_dtype(job.dtype),
    )


def _dataset(job: Job) -> Any:
    def make(client: int) -> Any:
        # Tensors, since pfl casts numpy arrays (labels too) to float32.
        return PyTorchTensorDataset(client_tensors(job.what, client), user_id=str(client))

    # This sampler cycles through the clients: a round trains each exactly once.
    return FederatedDataset(make, get_user_sampler("minimize_reuse", range(job.clients)))


def _versions() -> dict[str, str]:
    names = ("pfl", "torch", "transformers", "peft", "numpy")
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main(Job.from_json(sys.argv[1]))
