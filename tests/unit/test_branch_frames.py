"""A branch of the model as it travels: the tensors that it has, and those of earlier stages."""

import numpy as np
import pytest

from fedloom.codecs.branches import branch_down, branch_received
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params, Payload, State

LAYOUT = Layout((TensorSpec("a", (2,)), TensorSpec("b", (1,)), TensorSpec("c", (3,))))
STATE = State(Params(LAYOUT, np.arange(6, dtype=np.float32)), 4)
START = Params(LAYOUT, np.full(6, -1, dtype=np.float32))
BEFORE = Layout((LAYOUT.specs[1],))


def branch(**briefing: np.ndarray) -> Payload:
    own = Params(Layout((LAYOUT.specs[0],)), np.array([7, 8], dtype=np.float32))
    return branch_down(own, STATE, Float32(), BEFORE, briefing=briefing)


def test_what_comes_is_the_branchs_own_and_what_earlier_stages_moved() -> None:
    params, briefing = branch_received(START, Float32(), branch(seeds=np.arange(2)))
    # a is the branch's own, b the global model's, c as it was before the first round
    assert params.vector.tolist() == [7, 8, 2, -1, -1, -1]
    assert briefing["seeds"].tolist() == [0, 1]


def test_its_size_is_that_of_its_tensors() -> None:
    part = Layout(LAYOUT.specs[:2])
    alone = sent_down(STATE.params, Float32(), part, version=4)
    # Magic, a length, the kind of mask, and one byte of mask for three tensors.
    assert branch().nbytes == alone.nbytes + 4 + 1 + 1 + 1


def test_what_is_no_branch_is_refused() -> None:
    whole = sent_down(STATE.params, Float32(), LAYOUT, version=4)
    with pytest.raises(CodecError, match="branch: the frame does not say which tensors it has"):
        branch_received(START, Float32(), whole)
    frame = branch().frame
    for cut in (frame[:5], frame[:-1], frame[:6] + bytes([1]) + frame[7:]):
        with pytest.raises(CodecError):
            branch_received(START, Float32(), Payload("float32", cut))
