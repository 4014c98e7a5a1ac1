"""How well a frozen backbone reads some examples: perplexity, or accuracy of a linear probe."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.checkpoint import read_config
from fedloom.backbones.shape import read_shape
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.core.layout import ALL
from fedloom.core.seeds import stream
from fedloom.core.types import Metrics, Params
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.data import load_examples
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import Examples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.reading import reading_of

__all__ = ["Probe", "fitted", "probe_of"]

_ROWS = 64
"""Examples of similar length at a time."""
_DECAY = 0.1
"""Of the probe's weights over standardised features: half of it times their squares' sum."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Examples that backbones are judged on, one after the other, all alike.

    Attributes:
        job: how they are read: its backbone's table and its data.
        train: what a linear probe is fitted to; not looked at for a language model.
        test: what is judged.
        classes: names of the classes.
    """

    job: Job
    train: Examples
    test: Examples
    classes: tuple[str, ...]

    @staticmethod
    def speaks(folder: Path) -> bool:
        """Whether the model in a folder is of a family that is a causal language model."""
        return read_shape(read_config(folder)).causal

    def judged(self, folder: Path) -> Metrics:
        """`Evaluation.metrics` of the backbone in a folder.

        Raises:
            ConfigError: the backbone has no fused blocks.
            ModelError: it cannot be read, or has no language-model head and needs one.
        """
        cpu = torch.device("cpu")
        model = model_of(self.job, folder, self.classes, dtype=torch.float32, device=cpu)
        params = model.initial(0)
        if self.train.labels is not None:
            params = _probing(model, params, self.train, self.train.labels)
        return evaluate(model.session(params, ALL, self.test), params, self.test).metrics


def probe_of(job: Job, folder: Path, most: int) -> Probe:
    """The examples of a job, few enough to be judged twice while one waits.

    Args:
        job: with the adapter ``head``, or for a language model a new LoRA.
        folder: of a backbone, which says how texts become tokens.
        most: examples to fit to, and to judge, at most.

    Raises:
        ConfigError, DataError: as of `load_examples`; there is nothing to judge.
    """
    corpus = load_examples(job.data, reading_of(job.backbone, folder), seed=job.seed)
    corpus.check_test(job.data.path)
    train, test = (_some(part, most, job.seed) for part in (corpus.train, corpus.test))
    return Probe(job, train, test, corpus.classes)


def _some(examples: Examples, most: int, seed: int) -> Examples:
    if len(examples) <= most:
        return examples
    return examples.take(np.sort(stream(seed, "probe").choose(len(examples), most)))


def _probing(
    model: CohortModel, params: Params, train: Examples, labels: NDArray[np.int64]
) -> Params:
    """The model with a head that was fitted to what the frozen backbone makes of the examples."""
    if not isinstance(model, FusedModel):
        raise ConfigError("a linear probe: this model has no fused blocks")
    session = model.session(params, ALL, train)
    order = np.argsort(train.lengths(), kind="stable")
    some = (order[start : start + _ROWS] for start in range(0, len(order), _ROWS))
    features = torch.cat([session.frozen_activations(rows) for rows in some])
    head = fitted(features, torch.from_numpy(labels[order]), model.task.classes)
    names = (f"{model.head_name}.{field}" for field in ("weight", "bias"))
    found = dict(zip(names, (each.float().numpy() for each in head), strict=True))
    return Params(params.layout, params.layout.flatten(found))


def fitted(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features, to its one minimum.

    Args:
        features: ``[n, d]``.
        labels: int64 ``[n]``.
        classes: C.

    Returns:
        Weight ``[C, d]`` and bias ``[C]`` for the features as they are, float64.
    """
    wide = features.double()
    mean, spread = wide.mean(0), wide.std(0, correction=0).clamp_min(1e-12)
    inputs = (wide - mean) / spread
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS((weight, bias), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(functional.linear(inputs, weight, bias), labels)
        total = loss + _DECAY / 2 * weight.square().sum()
        total.backward()
        return total.detach()

    with torch.enable_grad():
        solver.step(closure)
    own = weight.detach() / spread
    return own, bias.detach() - own @ mean
