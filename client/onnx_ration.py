"""One job's model without torch within the memory that the process may take."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.formats import Scheme
from fedloom.client.memory import Budget, Memory, at_rest
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import Job
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.registry import create
from fedloom.core.types import Briefing, ClientTask, Params
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.onnx.fitting import ways_of
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.onnx.score import score
from fedloom.tuning.onnx.session import OnnxSession
from fedloom.tuning.onnx.walk import check, walk
from fedloom.tuning.ways import Way

__all__ = ["LEARNER", "OnnxRation", "check_whole", "learner_of"]

LEARNER = "finite-difference"


class OnnxRation:
    """How a device without torch runs its tasks in its memory: so many examples in a pass.

    Attributes:
        memory: what may be taken.

    Args:
        model: as it is opened; no graph has been made yet.
        examples: what it trains on.
        budget: what the process may take, and took before the model was opened.
        will_be: the format that the server will store matrices in; None for that of the model.
    """

    def __init__(
        self, model: OnnxModel, examples: Examples, budget: Budget, *, will_be: Scheme | None = None
    ) -> None:
        self._model, self._examples = model, examples
        self._weights = model.footprint(will_be)
        self.memory = Memory(budget.most, max(at_rest(), budget.bare), give_back=at_rest)

    def ways_for(
        self, task: ClientTask, params: Params, component: Component, own: Assignment
    ) -> list[Way]:
        """How a task can be run with a learner, and what each way takes.

        Raises:
            ConfigError: without torch it cannot.
        """
        return self._training(task, params, learner_of(component), own)

    def train(
        self,
        task: ClientTask,
        params: Params,
        learner: FiniteDifference,
        own: Assignment,
        briefing: Briefing,
    ) -> LocalResult:
        """Run a task of training.

        Raises:
            ConfigError: it asks for what only torch does.
            ModelError: it does not fit, or memory ran out in the smallest way.
        """
        ways, examples = self._training(task, params, learner, own), self._texts(self._examples)

        def trained(way: Way) -> LocalResult:
            session = self._session(task, params, examples, way)
            return walk(learner, session, params, task.work, own, briefing)

        return self.memory.run(ways, self.memory.choose(ways), trained)

    def evaluate(self, task: ClientTask, params: Params, examples: Examples) -> dict[str, float]:
        """Evaluate a model.

        Raises:
            ConfigError: examples are not texts.
            DataError: they have no labels.
            ModelError: it does not fit, or memory ran out in the smallest way.
        """
        _check(task)
        texts = self._texts(examples)
        labelled = self._model.head is None or texts.labels is not None
        if not labelled or not len(texts):
            raise DataError("this device has no examples to evaluate on, or none with a label")
        ways = self._ways(texts.lengths(), [np.arange(len(texts))], params)

        def scored(way: Way) -> dict[str, float]:
            return score(self._session(task, params, texts, way), params, texts)

        return self.memory.run(ways, self.memory.choose(ways), scored)

    def _training(
        self, task: ClientTask, params: Params, learner: FiniteDifference, own: Assignment
    ) -> list[Way]:
        _check(task)
        check(learner, task.work)
        lengths = self._texts(self._examples).lengths()
        plan = list(local_batches(own, task.work))
        trained = params.layout.select(task.selectors.train).size
        drawn = len(plan[0]) if learner.per_example else min(learner.directions, DIRECTIONS)
        return self._ways(lengths, plan, params, trained, drawn)

    def _ways(
        self,
        lengths: NDArray[np.int64],
        plan: list[NDArray[np.int64]],
        params: Params,
        trained: int = 0,
        directions: int = 0,
    ) -> list[Way]:
        return ways_of(
            self._model.shape,
            self._weights,
            lengths,
            plan,
            directions=directions,
            trained=trained,
            size=params.layout.size,
            vocabulary=0 if self._model.head else self._model.shape.vocab,
        )

    def _session(
        self, task: ClientTask, params: Params, examples: TextExamples, way: Way
    ) -> OnnxSession:
        train = task.selectors.train
        return OnnxSession(self._model, params, train, examples, at_once=way.tokens)

    def _texts(self, examples: Examples) -> TextExamples:
        if not isinstance(examples, TextExamples):
            raise ConfigError("backbone.task: a device without torch reads texts only")
        return examples


def check_whole(job: Job) -> None:
    """Check that a job's model is not split.

    Raises:
        ConfigError: it is.
    """
    if job.split.mode != "none":
        text = f"split.mode = {job.split.mode!r}: a device without torch runs whole models"
        raise ConfigError(text)


def learner_of(component: Component) -> FiniteDifference:
    """The learner that a job names.

    Raises:
        ConfigError: it is another than the one that needs no torch.
    """
    if component.name != LEARNER:
        text = f"learner.name = {component.name!r}: a device without torch has {LEARNER!r}"
        raise ConfigError(f"{text}; it can be a tier of its own")
    return cast(FiniteDifference, create("learners", component))


def _check(task: ClientTask) -> None:
    if task.blocks:
        raise ConfigError("blocks: a device without torch runs all of the backbone's blocks")
    if task.selectors.keep:
        text = f"keep = {task.selectors.keep}: a device without torch keeps no tensors of its own"
        raise ConfigError(text)
