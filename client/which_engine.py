"""Which engine runs models on this device. Neither is loaded to find out."""

from importlib.util import find_spec

from fedloom.client.settings import ClientSettings

__all__ = ["engine_of"]


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
