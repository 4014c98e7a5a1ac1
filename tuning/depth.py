"""Models of fewer layers than the backbone has."""

from collections.abc import Sequence

from fedloom.core.errors import ConfigError
from fedloom.tuning.base import Session
from fedloom.tuning.fused_session import FusedSession

__all__ = ["picked"]


def picked(session: Session, blocks: Sequence[int]) -> Session:
    """A session through some layers of its backbone only; itself where none are named.

    Args:
        session: through all layers.
        blocks: indices of layers, in the order in which they run.

    Raises:
        ConfigError: the engine runs whole backbones only, or there is no such layer.
    """
    if not blocks:
        return session
    if not isinstance(session, FusedSession):
        text = "only the fused engine runs some of them; see backbone.engine"
        raise ConfigError(f"blocks: a task asks for layers {list(blocks)}; {text}")
    return session.picked(blocks)
