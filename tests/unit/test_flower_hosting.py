"""What a ClientApp may do, and what becomes of it."""

import random
import re
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedloom.core.errors import RunError
from fedloom.flower.hosting import Node
from fedloom.flower.randomness import seeded
from fedloom.flower.simulated import Simulated
from fedloom.flower.wire import unpacked
from fedloom.strategies.flower.hosting import identified


def asked(kind: str = "train", node: int = 1, number: str = "m") -> Any:
    identified()
    content = RecordDict({"a": ArrayRecord([np.zeros(4)])})
    made = Message(content, dst_node_id=node, message_type=kind)
    made.metadata.__dict__["_message_id"] = number
    return made


app = ClientApp()


@app.train("leave")  # type: ignore[untyped-decorator, unused-ignore]
def leave(message: Any, context: Any) -> Any:
    sys.exit(0)


@app.train("nothing")  # type: ignore[untyped-decorator, unused-ignore]
def nothing(message: Any, context: Any) -> Any:
    return None


@app.train("odd")  # type: ignore[untyped-decorator, unused-ignore]
def odd(message: Any, context: Any) -> Any:
    reply = Message(RecordDict(), reply_to=message)
    reply.__dict__["_content"] = object()
    return reply


@app.query()  # type: ignore[untyped-decorator, unused-ignore]
def query(message: Any, context: Any) -> Any:
    context.state["kept"] = ConfigRecord({"draw": float(np.random.rand())})
    return Message(RecordDict({"c": context.state["kept"]}), reply_to=message)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("train", "No train function registered with name 'default'"),
        ("train.leave", "SystemExit: 0"),
        ("train.nothing", "the ClientApp returned NoneType, not a Message"),
        ("train.odd", "the reply cannot be written"),
        ("query", "the reply has .* bytes, of at most 10"),
    ],
)
def test_what_goes_wrong_is_the_reply(kind: str, reason: str) -> None:
    reply, data = Node(app, 1, {}, {}).replied(asked(kind), 10)

    assert reply.has_error()
    again = unpacked(data)
    assert re.search(reason, again.error.reason)
    assert again.metadata.reply_to_message_id == "m"
    assert again.metadata.src_node_id == 1


def test_a_context_comes_back_in_the_same_run_only() -> None:
    one = Node(app, 1, {}, {}, run=7)
    one.answer(asked("query"))
    same, other = Node(app, 1, {}, {}, run=7), Node(app, 1, {}, {}, run=8)

    same.restore(one.kept(), "here")
    other.restore(one.kept(), "here")

    assert same.context.state == one.context.state
    assert len(other.context.state) == 0
    with pytest.raises(RunError, match="here: not a context of Flower's"):
        same.restore(b"\xff\xff", "here")
    one.context.state = object()
    with pytest.raises(RunError, match=r"context\.state: cannot be kept"):
        one.kept()


def test_a_simulated_node_draws_by_its_message_alone() -> None:
    def drawn(number: str, seed: int = 0) -> Any:
        nodes = Simulated(app, 2, {}, seed=seed)
        np.random.rand()
        nodes.send(asked("query", 1, number))
        (reply,) = nodes.replies([number])
        return reply.content["c"]["draw"]

    assert drawn("m") == drawn("m")
    assert len({drawn("m"), drawn("n"), drawn("m", seed=1)}) == 3


def test_a_node_that_is_not_there() -> None:
    nodes = Simulated(app, 2, {})
    nodes.send(asked("query", 3))
    (reply,) = nodes.replies(["m"])
    assert (reply.error.code, reply.error.reason) == (5, "there is no node 3")
    nodes.send(asked("query", 1))
    nodes.withdraw(["m"])
    assert list(nodes.replies(["m"])) == []


def test_what_was_sent_before_is_answered_before() -> None:
    nodes, seen = Simulated(app, 2, {}), []
    nodes._nodes[1]._app = lambda message, context: seen.append(message.metadata.message_id)
    for number in ("first", "second"):
        nodes.send(asked("query", 1, number))
    (second,) = nodes.replies(["second"])
    (first,) = nodes.replies(["first"])
    assert seen == ["first", "second"]
    assert [r.metadata.reply_to_message_id for r in (first, second)] == seen


def test_global_generators_are_as_they_were() -> None:
    torch = pytest.importorskip("torch")
    with seeded(1, "x"):
        first = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    with seeded(1, "x"):
        second = random.random(), np.random.rand(), torch.rand(1).item()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]

    assert first == second
    assert before == after
