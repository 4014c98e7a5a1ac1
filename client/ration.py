"""One job's model within the memory that the process may take. Loads torch."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from fedloom.backbones.allocator import keep_large_blocks, return_large_blocks
from fedloom.client.memory import Budget, Memory, at_rest
from fedloom.client.settings import ClientSettings
from fedloom.core.component import Component
from fedloom.core.errors import ModelError
from fedloom.core.registry import create
from fedloom.core.sizes import bytes_of, megabytes
from fedloom.core.types import Briefing, ClientTask, LocalWork, Params
from fedloom.tuning.activations import Activations
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.capacity import free_memory
from fedloom.tuning.depth import picked
from fedloom.tuning.evaluate import BATCH_TOKENS
from fedloom.tuning.examples import Examples
from fedloom.tuning.fitting import SLACK, run_by, ways_of
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment, Learner, LocalResult
from fedloom.tuning.prefix import GROUP
from fedloom.tuning.ways import Way

__all__ = ["Ration"]


class Ration:
    """How a device's tasks are run in its memory: batches in parts, blocks run again, caches.

    Attributes:
        memory: what may be taken.
        activations: frozen activations that are kept in what training leaves.

    Args:
        model: as it is loaded; nothing has been trained yet.
        examples: what it trains on.
        settings: the owner's.
        device: where it trains.
        budget: what the process may take, and took before the model was loaded.
        scratch: folder for temporary files.
    """

    def __init__(
        self,
        model: CohortModel,
        examples: Examples,
        settings: ClientSettings,
        *,
        device: torch.device,
        budget: Budget,
        scratch: Path,
    ) -> None:
        self._model, self._examples = model, examples
        self._cache = int(settings.cache_gb * 2**30)
        self.activations = Activations(model, 0, 0, scratch)
        # Weights whose file is mapped count in full, though some have not been read yet.
        session = model.session(model.initial(0), ("*",), examples)
        whole = budget.bare + session.memory(0, backward=False)
        most, base = budget.most, max(at_rest(), whole)
        if device.type != "cpu":  # there it is the device's own that is short
            most, base = bytes_of("memory", settings.memory) or free_memory(device) // 2, 0
        self.memory = Memory(most, base, give_back=at_rest)

    def ways(
        self, task: ClientTask, params: Params, learner: Learner, assignment: Assignment
    ) -> list[Way]:
        """How a task can be run, and what each way takes."""
        train = task.selectors.train
        plain = picked(self._model.session(params, train, self._examples), task.blocks)
        plan = list(local_batches(assignment, task.work))
        trained, size = params.layout.select(train).size, params.layout.size
        return ways_of(plain, plan, learner, task.work, trained=trained, size=size)

    def ways_for(
        self, task: ClientTask, params: Params, component: Component, own: Assignment
    ) -> list[Way]:
        """How a task can be run with a learner, and what each way takes."""
        return self.ways(task, params, cast(Learner, create("learners", component)), own)

    def train(
        self,
        task: ClientTask,
        params: Params,
        learner: Learner,
        assignment: Assignment,
        briefing: Briefing,
        session_of: Callable[[], Session],
    ) -> LocalResult:
        """Run a task.

        Args:
            task: what is asked.
            params: where it starts.
            learner: how data becomes an update.
            assignment: the device's examples.
            briefing: what came beside the model.
            session_of: makes the task's session, once it is known what caches may take.

        Raises:
            ModelError: it does not fit, or memory ran out in the smallest way.
        """
        ways = self.ways(task, params, learner, assignment)
        way = self.memory.choose(ways, self.activations.held)
        self.activations.memory = self._left(way, params)
        session = picked(session_of(), task.blocks)

        def trained(way: Way) -> LocalResult:
            # Where the system refuses, what counts is addresses: those that the heap has are ours.
            mapped = way.frugal and not self.memory.refused
            (return_large_blocks if mapped else keep_large_blocks)()
            over = run_by(session, way)
            return learner.train(over, params, task.work, [assignment], briefing)[0]

        return self.memory.run(ways, way, trained)

    def evaluated_at_once(self, session: Session) -> int:
        """Tokens of a batch that is evaluated."""
        each = session.memory(1, backward=False) - session.memory(0, backward=False)
        room = self.memory.room(self.activations.held) - SLACK
        return max(min(room // max(each, 1), BATCH_TOKENS), 1)

    def check(self, model: CohortModel, tokens: float, work: LocalWork) -> None:
        """Better to say so than to be killed by the system in the middle.

        Args:
            model: what is here of it.
            tokens: of an average example.
            work: the numbers of local training.

        Raises:
            ModelError: a batch of average examples takes more than training may.
        """
        count = len(self._examples)
        batch = min(work.batch_size, work.max_examples or count, count)
        need = int(batch * tokens * model.bytes_per_token) + work.state_bytes(model.layout.size)
        may = self.memory.room()
        if need > may:
            text = f"a batch of {batch} needs about {megabytes(need)}"
            raise ModelError(f"{text}; training may take {megabytes(max(may, 0))} here")

    def _left(self, way: Way, params: Params) -> int:
        """Bytes for frozen activations: none where a group of them could not be computed."""
        session = self._model.session(params, ("*",), self._examples)
        tokens = int(self._examples.lengths().max(initial=0)) * GROUP
        group = session.memory(tokens, backward=False) - session.memory(0, backward=False)
        left = self.memory.room() - max(way.bytes, group + SLACK)
        return max(min(left, self._cache), 0)
