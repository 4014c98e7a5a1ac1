"""Older strategies of Flower's (``flwr.server.strategy``, and subclasses of one's own) as newer.

What they are asked is the same, in other words: parameters and results in the place of records, a
manager of clients in the place of a grid. Most strategies that people have written are these.
"""

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DPFedAvgAdaptive,
    DPFedAvgFixed,
    FedAvgAndroid,
    FedXgbBagging,
    FedXgbCyclic,
    FedXgbNnAvg,
    QFedAvg,
)
from flwr.server.strategy import Strategy as Legacy
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom.core.errors import ConfigError, StrategyError
from fedloom.strategies.flower.records import EXAMPLES

__all__ = ["Bridge", "Legacy", "is_legacy", "with_start"]

_CLIPS = "its clients clip; 'flwr:DifferentialPrivacyClientSideFixedClipping' does it here"
_REFUSED: dict[type, str] = {
    FedXgbBagging: "it aggregates trees; a fedloom job trains tensors",
    FedXgbCyclic: "it aggregates trees; a fedloom job trains tensors",
    FedXgbNnAvg: "it aggregates trees; a fedloom job trains tensors",
    FedAvgAndroid: "it reads the bytes of Android's clients; take 'flwr:FedAvg'",
    DPFedAvgFixed: _CLIPS,
    DPFedAvgAdaptive: _CLIPS,
    DifferentialPrivacyClientSideFixedClipping: _CLIPS,
    DifferentialPrivacyClientSideAdaptiveClipping: _CLIPS,
}
_OK = Status(Code.OK, "")


class Bridge(Strategy):  # type: ignore[misc, unused-ignore]  # untyped here
    """An older strategy, asked as newer ones are.

    Args:
        legacy: the strategy.

    Raises:
        ConfigError: it cannot aggregate what fedloom's clients send.
    """

    def __init__(self, legacy: Legacy) -> None:
        for kind, why in _REFUSED.items():
            if isinstance(legacy, kind):
                raise ConfigError(f"strategy = {type(legacy).__name__}: {why}")
        if isinstance(legacy, QFedAvg) and legacy.evaluate_fn is None:
            text = "it needs an evaluate_fn; 'flwr:QFedAvg' takes the clients' own losses"
            raise ConfigError(f"strategy = {type(legacy).__name__}: {text}")
        self.legacy = legacy
        self.names: list[str] = []
        self.asked = 0
        self.begun = False

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A message for each instruction of ``configure_fit``.

        Raises:
            ConfigError: the strategy begins with a model of its own.
        """
        manager, parameters = _manager(grid), self._parameters(arrays)
        if not self.begun:
            self._begin(parameters, manager)
        asked = self.legacy.configure_fit(server_round, parameters, manager)
        self.asked = len(asked)
        return [self._message(one, parameters, arrays, "train") for one in asked]

    def aggregate_train(
        self, server_round: int, replies: Sequence[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What ``aggregate_fit`` makes, and what its ``evaluate`` says of that."""
        results = []
        for reply in replies:
            numbers = dict(reply.content["metrics"])
            own = ndarrays_to_parameters(reply.content["arrays"].to_numpy_ndarrays())
            count = int(numbers.pop(EXAMPLES))
            results.append((_proxy(reply), FitRes(_OK, own, count, numbers)))
        missing = self._missing(replies)
        answer = self.legacy.aggregate_fit(server_round, results, missing)
        made, numbers = _pair("aggregate_fit", answer)
        if made is None:
            return None, _metrics(numbers)
        judged = self.legacy.evaluate(server_round, made)
        if judged is not None:
            numbers = {**numbers, "own_loss": judged[0], **_prefixed("own", judged[1])}
        tensors = parameters_to_ndarrays(made)
        if len(tensors) != len(self.names):
            text = f"returned {len(tensors)} tensors; the model has {len(self.names)}"
            raise StrategyError(f"aggregate_fit, round {server_round}: {text}")
        return _record(self.names, tensors), _metrics(numbers)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A message for each instruction of the hook of the same name."""
        manager, parameters = _manager(grid), self._parameters(arrays)
        asked = self.legacy.configure_evaluate(server_round, parameters, manager)
        self.asked = len(asked)
        return [self._message(one, parameters, arrays, "evaluate") for one in asked]

    def aggregate_evaluate(
        self, server_round: int, replies: Sequence[Message]
    ) -> MetricRecord | None:
        """What the hook of the same name makes."""
        results = []
        for reply in replies:
            numbers = dict(reply.content["metrics"])
            count, loss = int(numbers.pop(EXAMPLES)), float(numbers.get("loss", 0.0))
            results.append((_proxy(reply), EvaluateRes(_OK, loss, count, numbers)))
        missing = self._missing(replies)
        answer = self.legacy.aggregate_evaluate(server_round, results, missing)
        loss, numbers = _pair("aggregate_evaluate", answer)
        return _metrics({**({} if loss is None else {"loss": loss}), **numbers})

    def summary(self) -> None:
        """Nothing."""

    def _begin(self, parameters: Parameters, manager: SimpleClientManager) -> None:
        """What Flower does with the first model: fedloom's is given to the strategy."""
        for strategy in _layers(self.legacy):
            if hasattr(strategy, "initial_parameters"):
                strategy.initial_parameters = parameters
            if hasattr(strategy, "current_weights"):
                strategy.current_weights = parameters_to_ndarrays(parameters)
        found = self.legacy.initialize_parameters(manager)
        if found is not None and found is not parameters:
            text = "gives a model of its own; a job begins with its backbone's"
            raise ConfigError(f"{type(self.legacy).__name__}: initialize_parameters {text}")
        self.begun = True

    def _parameters(self, arrays: ArrayRecord) -> Parameters:
        self.names = list(arrays)
        return ndarrays_to_parameters(arrays.to_numpy_ndarrays())

    def _message(self, asked: Any, parameters: Parameters, arrays: ArrayRecord, kind: str) -> Any:
        proxy, told = asked
        if told.parameters is not parameters and told.parameters != parameters:
            arrays = _record(self.names, parameters_to_ndarrays(told.parameters))
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(dict(told.config))})
        return Message(content, dst_node_id=int(proxy.cid), message_type=kind)

    def _missing(self, replies: Sequence[Message]) -> list[Any]:
        return [StrategyError("no update came") for _ in range(self.asked - len(replies))]


def is_legacy(found: Any) -> bool:
    """Whether something is a class of older strategies."""
    return isinstance(found, type) and issubclass(found, Legacy)


def with_start(found: Any, options: dict[str, Any], required: Any) -> dict[str, Any]:
    """The options of an older strategy, with an empty first model where one has to be given.

    Args:
        found: the class.
        options: as the job has them.
        required: whether an option of a name has no default.
    """
    if is_legacy(found) and required("initial_parameters"):
        return {"initial_parameters": Parameters([], "numpy.ndarray"), **options}
    return options


class _Client(ClientProxy):  # type: ignore[misc, unused-ignore]  # untyped here
    """A client that a strategy may sample, and not talk to."""

    def get_properties(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        """Not from a strategy."""
        raise self._cannot("get_properties")

    def get_parameters(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        """Not from a strategy."""
        raise self._cannot("get_parameters")

    def fit(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        """Not from a strategy."""
        raise self._cannot("fit")

    def evaluate(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        """Not from a strategy."""
        raise self._cannot("evaluate")

    def reconnect(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        """Not from a strategy."""
        raise self._cannot("reconnect")

    def _cannot(self, name: str) -> ConfigError:
        text = "a strategy under fedloom says what clients do, and does not call them itself"
        return ConfigError(f"client.{name}: {text}")


class _Manager(SimpleClientManager):  # type: ignore[misc, unused-ignore]  # untyped here
    """The clients of a cohort: nobody else will come."""

    def wait_for(self, num_clients: int, timeout: int = 86400) -> bool:
        """Whether so many are there.

        Raises:
            ConfigError: they are not.
        """
        there = self.num_available()
        if there < num_clients:
            text = f"the strategy waits for {num_clients} clients, of {there} in the cohort"
            raise ConfigError(f"clients_per_round: {text}")
        return True


def _manager(grid: Grid) -> SimpleClientManager:
    manager = _Manager()
    for node in grid.get_node_ids():
        manager.register(_Client(str(node)))
    return manager


def _proxy(reply: Message) -> ClientProxy:
    return _Client(str(reply.metadata.src_node_id))


def _layers(strategy: Any) -> list[Any]:
    found = []
    while isinstance(strategy, Legacy):
        found.append(strategy)
        strategy = getattr(strategy, "strategy", None)
    return found


def _record(names: Sequence[str], tensors: Sequence[Any]) -> ArrayRecord:
    from flwr.app import Array

    return ArrayRecord({name: Array(one) for name, one in zip(names, tensors, strict=True)})


def _pair(hook: str, answer: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(answer, tuple) or len(answer) != 2:
        text = f"returned {type(answer).__name__}; expected a result and metrics"
        raise StrategyError(f"{hook}: {text}")
    return answer[0], dict(answer[1] or {})


def _prefixed(prefix: str, numbers: Any) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in dict(numbers or {}).items()}


def _metrics(numbers: dict[str, Any]) -> MetricRecord:
    """Those that are numbers."""
    return MetricRecord({n: v for n, v in numbers.items() if isinstance(v, int | float)})
