"""A model beside the global one on its way to the clients that start from it.

| bytes | what                                                                              |
|-------|-----------------------------------------------------------------------------------|
| 4     | ``FLP1``                                                                          |
| ...   | which of the model's tensors come (`core.tensor_sets`): its length (varint), its bytes |
| ...   | what is sent beside the model, and the model's frame (`codecs.exchange`)          |

All that does not come is as it was before the first round.
"""

from fedloom.codecs.base import Codec
from fedloom.codecs.exchange import received, sent_down
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.octets import Octets, varint
from fedloom.core.tensor_sets import read_tensors, tensors
from fedloom.core.types import Briefing, Params, Payload, State

__all__ = ["branch_down", "branch_received"]

_MAGIC = b"FLP1"


def branch_down(
    own: Params, state: State, codec: Codec, before: Layout, *, briefing: Briefing
) -> Payload:
    """A branch as its clients receive it.

    Args:
        own: the tensors that the branch has.
        state: before the round; what the branch lacks, it has as the global model.
        codec: how models travel.
        before: what clients of earlier stages have sent; it comes down though the branch may lack
            it.
        briefing: what is sent beside the model.
    """
    layout, there = state.params.layout, {*own.layout.names, *before.names}
    part = Layout(tuple(spec for spec in layout if spec.name in there))
    whole = state.params.having(own)
    payload = sent_down(whole, codec, part, version=state.version, briefing=briefing)
    chosen = tensors(part, layout)
    frame = b"".join((_MAGIC, varint(len(chosen)), chosen, payload.frame))
    return Payload(payload.codec, frame)


def branch_received(start: Params, codec: Codec, payload: Payload) -> tuple[Params, Briefing]:
    """The model that comes of `branch_down`'s payload, and what came beside it.

    Args:
        start: what the tensors are that do not come.
        codec: how models travel.
        payload: every byte that came.

    Raises:
        CodecError: the payload is no branch's, cut, damaged or of another model.
    """
    frame = payload.frame
    if not frame.startswith(_MAGIC):
        raise CodecError("branch: the frame does not say which tensors it has")
    octets = Octets(memoryview(frame)[len(_MAGIC) :], "branch")
    chosen = Octets(octets.take(octets.count()), "branch")
    part = read_tensors(chosen, start.layout)
    chosen.end()
    rest = bytes(octets.take(octets.left))
    return received(start, codec, Payload(payload.codec, rest), part)
