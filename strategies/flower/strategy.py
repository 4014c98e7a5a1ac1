"""A Flower strategy as one of ours: its hooks are called one round at a time.

Between rounds everything that the strategy knows is in our `State`: its attributes are taken from
there before a round and written there after it, so that checkpoints, resuming and stages need
nothing of Flower's. In a round the object itself remembers what it configured, as Flower has it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any

from fedloom.core.errors import ConfigError, StrategyError, UpdateRefusedError
from fedloom.core.types import (
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    LocalWork,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.decoded import decoded
from fedloom.strategies.flower.attributes import Attributes
from fedloom.strategies.flower.clipping import clipped
from fedloom.strategies.flower.hosting import borrowed_randomness, flower, identified
from fedloom.strategies.flower.records import (
    arrays_of,
    metrics_of,
    node_of,
    params_of,
    replies_to,
    same_arrays,
)
from fedloom.strategies.plan import task_for

__all__ = ["FlowerStrategy", "Judged"]

_NOTE, _UNSAVED = "flower", "flower.unsaved"
_SLOTS = "flower/"
_WORK = {field.name for field in fields(LocalWork)}
_LEAST = ("min_available_nodes", "min_train_nodes", "min_available_clients", "min_fit_clients")
_ALSO = {"proximal_mu": "prox_mu", "local_epochs": "epochs"}


@dataclass(frozen=True)
class _Open:
    """A round that the strategy has configured.

    Attributes:
        version: of the state that it was configured for.
        cohort: who was there.
        messages: what the strategy sends, in its order.
    """

    version: int
    cohort: Cohort
    messages: Sequence[Any]


class FlowerStrategy:
    """Drives a strategy of Flower's (``flwr.serverapp.strategy.Strategy``).

    Args:
        strategy: the object.

    Raises:
        ConfigError: it is none of Flower's, or aggregates trees.

    Attributes:
        inner: the object.
        whole_deltas: it cannot go along directions that clients step along.
    """

    whole_deltas = True

    def __init__(self, strategy: Any) -> None:
        inner: Any = flower().serverapp.strategy
        if not isinstance(strategy, inner.Strategy):
            text = "expected a flwr.serverapp.strategy.Strategy"
            raise ConfigError(f"strategy = {type(strategy).__name__}: {text}")
        if isinstance(strategy, inner.FedXgbBagging | inner.FedXgbCyclic):
            text = "it aggregates trees; a fedloom job trains tensors"
            raise ConfigError(f"strategy = {type(strategy).__name__}: {text}")
        self.inner = strategy
        self._attributes = Attributes(strategy, (inner.Strategy, flower().server.strategy.Strategy))
        self._open: _Open | None = None

    def init(self, params: Params) -> State:
        """The state before the first round: the strategy as it was made."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """A task for each message of ``configure_train``.

        Raises:
            ConfigError: it sends another model than the global one, or asks for more clients than
                the cohort has.
            StrategyError: the state is of a strategy that cannot be resumed.
        """
        self._recall(state)
        self._open = _Open(state.version, cohort, ())
        if not cohort.clients:
            return {}
        arrays = arrays_of(state.params)
        messages = self._configured("configure_train", state, cohort, arrays)
        self._open = _Open(state.version, cohort, messages)
        by_node = {node_of(client.id): client for client in cohort.clients}
        tasks = {}
        for message in messages:
            self._check(message, by_node, arrays)
            client = by_node[message.metadata.dst_node_id]
            task = task_for(client, state, cohort)
            tasks[client.id] = replace(task, work=_work_of(message, task.work))
        return tasks

    def accumulate(
        self, total: dict[str, ClientUpdate] | None, update: ClientUpdate
    ) -> dict[str, ClientUpdate]:
        """Hold an update: Flower's strategies get all of a round at once.

        Raises:
            UpdateRefusedError: it is not decoded, or comes as steps along directions.
        """
        if decoded(update).steps is not None:
            text = "it comes as seeds and scalars, which Flower's strategies cannot aggregate"
            raise UpdateRefusedError(f"client {update.client!r}: {text}")
        held = {} if total is None else total
        held[update.client] = update
        return held

    def apply(self, state: State, total: dict[str, ClientUpdate] | None) -> tuple[State, Metrics]:
        """The model that ``aggregate_train`` makes of what came; the same where it makes none.

        Raises:
            StrategyError: what it makes does not fit the model.
        """
        if not total:
            return replace(state, version=state.version + 1), {}
        opened = self._opened(state.version)
        with self._hosted("aggregate_train", opened.cohort):
            updates = {node_of(client): update for client, update in total.items()}
            replies = replies_to(opened.messages, updates, state.params)
            replies = clipped(self.inner, opened.messages, replies)
            answer = self.inner.aggregate_train(opened.cohort.round, replies)
        params, numbers = _aggregated(answer, state, opened.cohort.round)
        after = State(params, state.version + 1, state.slots, state.notes)
        return self._written(after), metrics_of(numbers)

    def _configured(self, hook: str, state: State, cohort: Cohort, arrays: Any) -> list[Any]:
        """The messages of one of the two hooks that make some."""
        from flwr.app import ConfigRecord

        from fedloom.strategies.flower.nodes import Nodes

        _check_enough(self.inner, cohort)
        nodes = Nodes([node_of(client.id) for client in cohort.clients])
        with self._hosted(hook, cohort):
            made = getattr(self.inner, hook)(cohort.round, arrays, ConfigRecord(), nodes)
            messages = list(made)
        for place, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{cohort.round}/{place}"
        return messages

    def _check(self, message: Any, by_node: Mapping[int, object], arrays: Any) -> None:
        """Find a message that cannot be a task."""
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        if node not in by_node:
            raise ConfigError(f"configure_train: node {node}: it is not in the cohort")
        if kind.partition(".")[0] != "train":
            raise ConfigError(f"configure_train: message_type = {kind!r}: expected 'train'")
        records = message.content.array_records.values()
        if not all(same_arrays(record, arrays) for record in records):
            text = "a node is sent another model than the global one; fedloom sends all the same"
            raise ConfigError(f"configure_train: {text}")

    def _hosted(self, hook: str, cohort: Cohort) -> AbstractContextManager[None]:
        """Around one call of Flower's code."""
        identified()
        return borrowed_randomness(cohort.seed, hook, round=cohort.round)

    def _opened(self, version: int) -> _Open:
        if self._open is None or self._open.version != version:
            raise StrategyError("apply: called without configure for the same state")
        return self._open

    def _recall(self, state: State) -> None:
        """The strategy as it was when `state` was written."""
        unsaved = str(state.notes.get(_UNSAVED, ""))
        if unsaved and (self._open is None or self._open.version + 1 != state.version):
            text = "holds objects that a checkpoint cannot, so that the run cannot be resumed"
            name = type(getattr(self.inner, "legacy", self.inner)).__name__
            raise StrategyError(f"{name} {text}: {unsaved}")
        slots = {name: array for name, array in state.slots.items() if name.startswith(_SLOTS)}
        self._attributes.put_back(str(state.notes.get(_NOTE, "")), slots)

    def _written(self, state: State) -> State:
        """The state with what the strategy knows now."""
        found = self._attributes.written()
        notes = {_NOTE: found.text}
        if found.unsaved:
            notes[_UNSAVED] = ", ".join(found.unsaved)
        return replace(state, slots=dict(found.slots), notes=notes)


class Judged(FlowerStrategy):
    """A Flower strategy with evaluation hooks of its own, which the server's evaluation answers."""

    def candidates(self, state: State) -> Mapping[str, Params]:
        """The new model, where any client took part."""
        opened = self._open
        asked = opened is not None and opened.messages and opened.version + 1 == state.version
        return {"global": state.params} if asked else {}

    def told(self, state: State, judged: Mapping[str, Metrics]) -> tuple[State, Metrics]:
        """``configure_evaluate`` and ``aggregate_evaluate``; all nodes say what the server saw."""
        from flwr.app import Message, MetricRecord, RecordDict

        opened = self._opened(state.version - 1)
        arrays = arrays_of(state.params)
        asked = self._configured("configure_evaluate", state, opened.cohort, arrays)
        found = {name: float(value) for name, value in judged["global"].items()}
        content = MetricRecord({"num-examples": 1, **found})
        with self._hosted("aggregate_evaluate", opened.cohort):
            replies = [Message(RecordDict({"metrics": content}), reply_to=m) for m in asked]
            numbers = self.inner.aggregate_evaluate(opened.cohort.round, replies)
        metrics = {f"evaluate_{name}": value for name, value in metrics_of(numbers).items()}
        return self._written(state), metrics


def _aggregated(answer: Any, state: State, round: int) -> tuple[Params, Any]:
    where = f"aggregate_train, round {round}"
    if not isinstance(answer, tuple) or len(answer) != 2:
        text = f"returned {type(answer).__name__}; expected arrays and metrics"
        raise StrategyError(f"{where}: {text}")
    arrays, numbers = answer
    if arrays is None:
        return state.params, numbers
    return params_of(arrays, state.params.layout, where), numbers


def _check_enough(strategy: Any, cohort: Cohort) -> None:
    """Find a strategy that would wait for clients who will not come."""
    strategy = getattr(strategy, "legacy", strategy)
    while strategy is not None:
        for name in _LEAST:
            least = getattr(strategy, name, 0)
            if least > len(cohort.clients):
                text = f"{len(cohort.clients)} or fewer, the clients of the round's cohort"
                raise ConfigError(f"{name} = {least}: {text}; or a larger clients_per_round")
        strategy = getattr(strategy, "strategy", None)


def _work_of(message: Any, work: LocalWork) -> LocalWork:
    """The job's numbers of local training, and what a message's config says of them."""
    said: dict[str, Any] = {}
    for record in message.content.config_records.values():
        for key, value in record.items():
            name = key.replace("-", "_")
            name = _ALSO.get(name, name)
            if name in _WORK and isinstance(value, int | float | str):
                said[name] = value
    return replace(work, **said) if said else work
