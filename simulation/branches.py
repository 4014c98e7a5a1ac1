"""Models beside the global one that simulated clients of a round start from."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.codecs.base import Codec
from fedloom.codecs.branches import branch_down, branch_received
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, Params, State
from fedloom.strategies.contract import branches_of

__all__ = ["Branch", "branched"]


@dataclass(frozen=True)
class Branch:
    """What the clients of one branch start from.

    Attributes:
        params: the model, as it came down.
        bytes_down: received for it by each of them.
    """

    params: Params
    bytes_down: int


def branched(
    strategy: object, state: State, codec: Codec, before: Layout, briefing: Briefing
) -> Mapping[str, Branch]:
    """The branches of a strategy on their way to clients; none where it does not branch.

    Args:
        strategy: of the stage.
        state: before the round.
        codec: how models travel.
        before: what clients of earlier stages have sent.
        briefing: what is sent beside the model.
    """
    found = {}
    for name, own in branches_of(strategy, state).items():
        payload = branch_down(own, state, codec, before, briefing=briefing)
        found[name] = Branch(branch_received(state.params, codec, payload)[0], payload.nbytes)
    return found
