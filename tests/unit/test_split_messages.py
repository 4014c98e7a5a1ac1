from typing import Any

import numpy as np
import pytest
import torch

from fedloom.backbones.lengths import Lengths
from fedloom.core.body import Body
from fedloom.core.chunks import read_chunk
from fedloom.core.errors import FedloomError, SplitError, TransferError
from fedloom.protos import split_pb2 as pb
from fedloom.server.split_host import Terms
from fedloom.server.split_messages import (
    Answered,
    answered_of,
    check_open,
    messages_of,
    parts_of,
    read_leg,
)
from fedloom.tuning.far import FarLosses

TERMS = Terms("tiny", 2, 4, 8, labels=True, max_bytes=1000, max_length=16, max_tokens=50)
HOME = Terms("tiny", 2, 4, 8)


def opening(**changes: Any) -> Any:
    fields = {"protocol": 1, "session": bytes(16), "plan": "tiny", "first": 2, "last": 4}
    codecs = {"dtype": "float32", "codec_up": "int8", "codec_down": "bf16"}
    return pb.Open(**{**fields, **codecs, **changes})


def leg(**changes: Any) -> Any:
    fields = {"kind": pb.FORWARD, "step": 3, "train": True, "shape": (2, 5, 8), "size": 320}
    return pb.Leg(**{**fields, "counts": [2, 1], "lengths": [3, 2, 4], **changes})


def test_what_is_agreed() -> None:
    check_open(opening(), HOME)
    check_open(opening(labels=pb.FAR), TERMS)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"protocol": 9}, "protocol", "protocol = 9: this server speaks 1"),
        ({"session": b"short"}, "protocol", "session = 5 bytes; expected 16"),
        ({"plan": "other"}, "plan", "plan = 'other'; here it is 'tiny'"),
        ({"first": 1}, "cut", "blocks 1 to 4; here are 2 to 4"),
        ({"labels": pb.FAR}, "labels", "labels = far; here they stay at home"),
        ({"dtype": "float64"}, "dtype", "dtype = 'float64'; here it is 'float32'"),
        ({"codec_up": "zip"}, "codec", "codec = 'zip': one of float64, float32, bf16, int8"),
    ],
)
def test_what_cannot_be_agreed(changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(FedloomError, match=text) as refused:
        check_open(opening(**changes), HOME)
    assert getattr(refused.value, "code", "") == code


def test_a_leg_as_it_is_read() -> None:
    found = read_leg(leg(), HOME, labels=pb.HOME)
    assert (found.kind, found.step, found.train, found.shape) == (pb.FORWARD, 3, True, (2, 5, 8))
    assert found.lengths == Lengths(((3, 2), (4,)), None)
    assert found.places is None
    grad = read_leg(pb.Leg(kind=pb.BACKWARD, shape=(2, 5, 8)), HOME, labels=pb.HOME)
    assert grad.lengths is None


def test_places_come_with_the_labels_alone() -> None:
    places = pb.Places(index=[0, 9], target=[1, 0], owner=[0, 1])
    found = read_leg(leg(kind=pb.LOSSES, places=places), TERMS, labels=pb.FAR)
    assert found.places is not None
    np.testing.assert_array_equal(found.places.index, [0, 9])
    np.testing.assert_array_equal(found.places.owner, [0, 1])


PLACES = pb.Places(index=[0], target=[1], owner=[0])


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"shape": (2, 5)}, "shape", r"shape = \[2, 5\]; expected three numbers, the last 8"),
        ({"shape": (2, 6, 8)}, "shape", r"its lengths make \[2, 5, 8\]"),
        ({"shape": (2, 26, 8)}, "length", "52 tokens; a leg has at most 50"),
        ({"size": 1001}, "too-large", "a body of 1001 bytes; at most 1000"),
        ({"counts": [2, 2]}, "shape", "counts of 4 examples, and 3 lengths"),
        ({"lengths": [3, 0, 4]}, "shape", "all at least 1"),
        ({"lengths": [3, 2, 17]}, "length", "an example of 17 tokens; at most 16"),
        ({"read": 7}, "shape", "read = 7: not known here"),
        ({"kind": 7}, "order", "kind = 7: not known here"),
        ({"kind": pb.LOSSES}, "shape", r"places of \[0, 0, 0\] numbers"),
        (
            {"kind": pb.LOSSES, "places": pb.Places(index=[10], target=[0], owner=[0])},
            "shape",
            "places up to 10, of client 0",
        ),
        (
            {"kind": pb.LOSSES, "places": pb.Places(index=[0], target=[0], owner=[2])},
            "shape",
            "places up to 0, of client 2",
        ),
    ],
)
def test_legs_that_do_not_fit(changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises((SplitError, TransferError), match=text) as refused:
        read_leg(leg(**changes), TERMS, labels=pb.FAR)
    assert getattr(refused.value, "code", "") == code


@pytest.mark.parametrize("changes", [{"kind": pb.LOSSES, "places": PLACES}, {"places": PLACES}])
def test_no_label_is_taken_that_stays_at_home(changes: dict[str, Any]) -> None:
    with pytest.raises(SplitError, match="a leg with labels; they stay at home") as refused:
        read_leg(leg(**changes), TERMS, labels=pb.HOME)
    assert refused.value.code == "labels"


def losses() -> FarLosses:
    loss, each = torch.tensor([0.5, 1.25]), torch.tensor([0.5, 1.0, 1.5])
    return FarLosses(loss, loss * 2, loss * 0 + 3, each, torch.tensor([4, 0, 70_000]))


def test_an_answer_on_the_wire() -> None:
    body = bytes(range(250)) * 5000  # two pieces
    answer = Answered(pb.LOSSES, 3, 7, (1, 2, 3), memoryview(body), losses())
    head, *chunks = messages_of(answer)
    said = pb.Down.FromString(head).answer
    assert (said.kind, said.step, said.version, list(said.shape)) == (pb.LOSSES, 3, 7, [1, 2, 3])
    assert list(said.losses.loss) == [0.5, 1.25]
    assert list(said.losses.predicted) == [4, 0, 70_000]
    found = Body(said.size)
    for chunk in map(read_chunk, chunks):
        assert chunk is not None
        found.add(*chunk)
    assert bytes(found.data) == body


@pytest.mark.parametrize("own", [None, losses()])
def test_an_answer_that_is_kept(own: FarLosses | None) -> None:
    answer = Answered(pb.BACKWARD, 3, 7, (1, 2, 3), b"the body", own)
    again = answered_of(b"".join(parts_of(answer)))
    assert (again.kind, again.step, again.version, again.shape) == (pb.BACKWARD, 3, 7, (1, 2, 3))
    assert bytes(again.body) == b"the body"
    assert (again.losses is None) == (own is None)
    if own is not None and again.losses is not None:
        for name, figures in vars(own).items():
            assert getattr(again.losses, name).tolist() == figures.tolist(), name
