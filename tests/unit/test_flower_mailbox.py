"""Messages to nodes and replies from them, also from those that are gone, late or twice there."""

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Message, RecordDict

from fedloom.core.errors import TransferError
from fedloom.flower.calls import RunFacts
from fedloom.flower.hosting import UNANSWERABLE
from fedloom.flower.mailbox import Mailbox
from fedloom.strategies.flower.hosting import identified
from fedloom.strategies.flower.records import node_of


def message(node: int, number: str = "m", **keys: Any) -> Any:
    identified()
    content = RecordDict({"c": ConfigRecord({"x": 1})})
    made = Message(content, dst_node_id=node, message_type="train", **keys)
    made.metadata.__dict__["_message_id"] = number
    return made


def reply_to(asked: Any) -> Any:
    return Message(RecordDict(), reply_to=asked)


def waiting(mailbox: Mailbox, client: str) -> Any:
    return asyncio.run(mailbox.next(client, 0.0))


def test_a_message_is_given_until_it_is_answered_once() -> None:
    mailbox, node = Mailbox(), node_of("a")
    assert waiting(mailbox, "a") is None
    asked, later = message(node), message(node, "n")
    mailbox.send(asked)
    mailbox.send(later)

    assert waiting(mailbox, "a") is asked
    assert waiting(mailbox, "a") is asked  # it was started again
    assert waiting(mailbox, "b") is None
    with pytest.raises(TransferError, match="no message 'm' waits"):
        mailbox.take("b", reply_to(asked))
    with pytest.raises(TransferError, match="no message 'n' waits"):
        mailbox.take("a", reply_to(later))
    mailbox.take("a", reply_to(asked))
    with pytest.raises(TransferError, match="no message 'm' waits"):
        mailbox.take("a", reply_to(asked))
    assert waiting(mailbox, "a") is later

    (reply,) = mailbox.replies(["m", "n"])
    assert reply.metadata.src_node_id == node
    assert mailbox.replies(["m", "n"]) == []


def test_a_node_that_gives_no_sign_of_life_is_gone() -> None:
    mailbox, node = Mailbox(patience=0.05), node_of("a")
    mailbox.seen("a")
    assert mailbox.nodes() == [node]
    mailbox.send(message(node))
    assert mailbox.replies(["m"]) == []
    mailbox.send(message(7, "nobody"))
    time.sleep(0.06)
    mailbox._looked = 0.0

    found = {
        reply.metadata.reply_to_message_id: reply for reply in mailbox.replies(["m", "nobody"])
    }

    assert mailbox.nodes() == []
    assert found["m"].error.reason == f"node {node} gave no sign of life"
    assert found["nobody"].error.code == 5
    with pytest.raises(TransferError, match="waits"):
        mailbox.take("a", reply_to(message(node)))


def test_a_message_does_not_outlive_its_time() -> None:
    mailbox, node = Mailbox(), node_of("a")
    mailbox.seen("a")
    mailbox.send(message(node, ttl=0.01))
    mailbox.send(message(node, "n"))
    time.sleep(0.02)
    mailbox._looked = 0.0

    (reply,) = mailbox.replies(["m", "n"])

    assert (reply.error.code, reply.metadata.src_node_id) == (3, node)
    assert "did not reply within the 0 s to live" in reply.error.reason
    assert waiting(mailbox, "a").metadata.message_id == "n"


def test_what_is_withdrawn_is_not_worked_on() -> None:
    mailbox, node = Mailbox(), node_of("a")
    mailbox.seen("a")
    asked = message(node)
    mailbox.send(asked)
    mailbox.withdraw(["m"])

    assert waiting(mailbox, "a") is None
    with pytest.raises(TransferError, match="waits"):
        mailbox.take("a", reply_to(asked))
    assert mailbox.replies(["m"]) == []


def test_what_cannot_be_sent_is_answered() -> None:
    mailbox, node = Mailbox(), node_of("a")
    asked = message(node)
    mailbox.send(asked)
    mailbox.fail(asked, UNANSWERABLE, "too large")
    mailbox.fail(asked, UNANSWERABLE, "again")

    (reply,) = mailbox.replies(["m"])
    assert reply.error.reason == "too large"


def test_everybody_hears_of_the_end() -> None:
    mailbox = Mailbox()
    mailbox.seen("a")
    mailbox.end()
    assert mailbox.unaware
    assert waiting(mailbox, "a") is None
    assert not mailbox.unaware


def test_facts_of_a_run_travel() -> None:
    facts = RunFacts("app", 2**62, {"lr": 0.5}, 10)
    assert RunFacts.read(facts.written()) == facts
    with pytest.raises(TransferError, match="facts cannot be read"):
        RunFacts.read(b'{"app": "x"}')
