"""Models other than the whole global one that simulated clients of a round start from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedloom.codecs.base import Codec
from fedloom.codecs.branches import branch_down, branch_received
from fedloom.codecs.downlink import Downlink
from fedloom.codecs.exchange import received
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, Params, State
from fedloom.strategies.contract import branches_of

__all__ = ["Branch", "Cuts", "branched"]


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


@dataclass(eq=False)
class Cuts:
    """The global model as it comes down to clients of a part of the adapter's rank.

    Each rank's is made once, so that time and memory do not grow with the clients.

    Attributes:
        model: on its way.
        start: what tensors are that do not come.
        codec: how models travel.
        part: the tensors that clients may not have yet.
    """

    model: Downlink
    start: Params
    codec: Codec
    part: Layout
    _made: dict[int, Branch] = field(default_factory=dict)

    def of(self, rank: int) -> Branch | None:
        """What clients of a rank start from; None where all are sent the whole adapter."""
        payload = self.model.cut(rank)
        if payload is not None and rank not in self._made:
            params, _ = received(self.start, self.codec, payload, self.part, rank=rank)
            self._made[rank] = Branch(params, payload.nbytes)
        return self._made.get(rank)
