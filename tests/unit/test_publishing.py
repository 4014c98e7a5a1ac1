"""Which models a round offers: the global one and its branches, and nothing of the round before."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from small_server import LAYOUT, plan_of

from fedloom.codecs.branches import branch_received
from fedloom.codecs.dense import Float32
from fedloom.core.types import Params, Payload, State
from fedloom.server.contents import Contents
from fedloom.server.publishing import Published, Publishing

START = Params(LAYOUT, np.zeros(4, dtype=np.float32))


def params(value: float) -> Params:
    return Params(LAYOUT, np.full(4, value, dtype=np.float32))


class Branching:
    """Gives models that lie so far above the global one."""

    def __init__(self, **above: float) -> None:
        self.above = above

    def branches(self, state: State) -> Mapping[str, Params]:
        now = float(state.params.vector[0])
        return {name: params(now + value) for name, value in self.above.items()}


def body(contents: Contents, sha256: str) -> bytes:
    return b"".join(bytes(data) for _, _, data in contents.open(sha256))


def addresses(published: Published) -> set[str]:
    return {published.models.content.sha256, *(c.sha256 for c in published.branches.values())}


def test_each_branch_has_an_address_as_long_as_its_round(tmp_path: Path) -> None:
    contents = Contents()
    publishing = Publishing(plan_of(tmp_path), contents)
    first = publishing.round(0, Branching(x=1.0, y=2.0), State(params(1.0), 1), 1)
    for name, value in {"x": 2.0, "y": 3.0}.items():
        frame = body(contents, first.branches[name].sha256)
        assert len(frame) == first.branches[name].size
        found, _ = branch_received(START, Float32(), Payload("float32", frame))
        assert found.vector.tolist() == [value] * 4
    again = publishing.round(0, Branching(x=1.0, y=2.0), State(params(1.0), 1), 1)
    assert addresses(again) == addresses(first)  # as after a restart
    later = publishing.round(0, Branching(x=0.0, z=1.0), State(params(2.0), 2), 2)
    assert later.branches["x"] == first.branches["x"]  # the same model still
    assert set(contents._stored) == addresses(later)


def test_a_model_alone_takes_the_place_of_all(tmp_path: Path) -> None:
    contents = Contents()
    publishing = Publishing(plan_of(tmp_path), contents)
    publishing.round(0, Branching(x=1.0), State(params(1.0), 1), 1)
    models = publishing.model(0, State(params(5.0), 1), 1)
    assert set(contents._stored) == {models.content.sha256}
