"""The clients of a cohort as a Flower ``Grid``: a strategy can ask who is there, and no more."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.serverapp import Grid

from fedloom.core.errors import ConfigError

__all__ = ["Nodes"]

_LOOKS = 50


class Nodes(Grid):  # type: ignore[misc, unused-ignore]  # untyped here
    """Who may be sampled.

    Flower's strategies wait for nodes by asking again and again; here nobody else will come.

    Args:
        nodes: numbers of the clients.
    """

    def __init__(self, nodes: Sequence[int]) -> None:
        self._nodes, self._looks = list(nodes), 0
        self._run = SimpleNamespace(run_id=1)

    def set_run(self, run: Any) -> None:
        """Nothing depends on the run."""

    @property
    def run(self) -> Any:
        """Something with a ``run_id``."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """The clients.

        Raises:
            ConfigError: asked so often that the strategy must be waiting for more of them.
        """
        self._looks += 1
        if self._looks > _LOOKS:
            text = f"the strategy waits for more nodes than the {len(self._nodes)} of the cohort"
            raise ConfigError(f"clients_per_round: {text}")
        return list(self._nodes)

    def create_message(self, *args: Any, **keys: Any) -> Any:
        """Flower's own way of making one."""
        raise self._cannot("create_message")

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """A strategy gives its messages back; fedloom sends them."""
        raise self._cannot("push_messages")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """A strategy is given its replies; fedloom gets them."""
        raise self._cannot("pull_messages")

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> Iterable[Any]:
        """A strategy gives its messages back; fedloom sends them."""
        raise self._cannot("send_and_receive")

    def _cannot(self, name: str) -> ConfigError:
        text = "a strategy under fedloom returns its messages, and does not send them itself"
        return ConfigError(f"grid.{name}: {text}")
