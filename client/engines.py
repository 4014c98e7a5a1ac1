"""What runs a model on this device: torch, or onnxruntime where there is no torch."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from fedloom.client.held import Coming
from fedloom.client.manifest import Order
from fedloom.client.outbox import Finished
from fedloom.client.settings import ClientSettings

if TYPE_CHECKING:
    from fedloom.client.tiers import Fit

__all__ = ["Working", "engine_of"]


class Working(Protocol):
    """Does the tasks of one job."""

    def train(
        self, order: Order, ticket: str, frame: bytes, coming: Coming
    ) -> tuple[Finished, bytes]:
        """Do a task of training; the result and its payload."""
        ...

    def fits(self) -> "list[Fit]":
        """How each kind of device would train here."""
        ...

    def evaluate(self, order: Order, ticket: str, frame: bytes, coming: Coming) -> Finished:
        """Evaluate the global model on the device's own examples."""
        ...


def engine_of(settings: ClientSettings) -> str:
    """``torch`` or ``onnx``: what the owner says, or else torch where it is installed."""
    if settings.engine != "auto":
        return settings.engine
    return "torch" if _is_there("torch") else "onnx"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
