"""Lines of rounds from messages, as newer apps exchange them and as older ones do."""

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedloom.flower.watching import Rounds, Sent
from fedloom.results.observe import RoundLine
from fedloom.strategies.flower.hosting import identified

ARRAY = 128 + 16  # .npy's header, and four float32


def asked(kind: str, node: int, group: str = "") -> Any:
    identified()
    content = RecordDict({"a": ArrayRecord([np.zeros(4, dtype=np.float32)])})
    return Message(content, dst_node_id=node, message_type=kind, group_id=group)


def newer(message: Any, examples: Any, **metrics: Any) -> Any:
    record = MetricRecord({"num-examples": examples, **metrics})
    reply = Message(RecordDict({"m": record}), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
    return reply


def older(message: Any, examples: int, **metrics: Any) -> Any:
    """As ``NumPyClient.fit`` is answered for."""
    content = {
        "fitres.num_examples": MetricRecord({"num_examples": examples}),
        "fitres.metrics": ConfigRecord(metrics),
        "fitres.status": ConfigRecord({"code": 0, "message": "x"}),
    }
    reply = Message(RecordDict(content), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
    return reply


def watched() -> tuple[Rounds, list[RoundLine]]:
    lines = list[RoundLine]()
    return Rounds(lines.append), lines


def test_an_exchange_of_training_is_a_round() -> None:
    rounds, lines = watched()
    for _ in range(2):
        out = [asked("train", 1), asked("train", 2), asked("train", 3)]
        broken = Message(Error(2, "broke"), reply_to=out[2])
        broken.metadata.__dict__["_src_node_id"] = 3
        came = [newer(out[0], 1, train_loss=1.0, odd=[1.0]), newer(out[1], 3, train_loss=2.0)]
        rounds.watch([Sent.of(message) for message in out], [*came, broken])
        judged = asked("evaluate", 1)
        rounds.watch([Sent.of(judged)], [newer(judged, 5, loss=0.25)])
    rounds.finish()

    assert [line.round for line in lines] == [1, 2]
    line = lines[1]
    assert (line.accepted, line.refused, line.loss) == (2, 1, 1.75)
    assert line.refusals[0].reason == "broke"
    assert line.evaluation == rounds.evaluated == {"loss": 0.25}
    assert (line.bytes_down, line.total_bytes_down) == (4 * ARRAY, 8 * ARRAY)


def test_older_apps_have_an_exchange_for_each_node() -> None:
    rounds, lines = watched()
    for number in ("1", "2"):
        for node, count in ((1, 1), (2, 3)):
            out = asked("train", node, number)
            rounds.watch([Sent.of(out)], [older(out, count, train_loss=float(node))])
    rounds.finish()

    assert [(line.round, line.accepted, line.loss) for line in lines] == [
        (1, 2, 1.75),
        (2, 2, 1.75),
    ]


def test_several_stages_of_a_round_count_nodes_once() -> None:
    rounds, lines = watched()
    for missing in (0, 1):
        out = [asked("train", 1, "r"), asked("train", 2, "r")]
        came = [newer(message, 1) for message in out[missing:]]
        rounds.watch([Sent.of(message) for message in out], came)
    rounds.finish()

    assert [(line.accepted, line.refused) for line in lines] == [(1, 1)]


def test_preparations_are_no_rounds_and_odd_weights_no_error() -> None:
    rounds, lines = watched()
    identified()
    empty = Message(RecordDict(), dst_node_id=1, message_type="train.warm")
    rounds.watch([Sent.of(empty)], [newer(empty, [1, 2])])
    rounds.watch([], [])
    out = asked("train", 1)
    rounds.watch([Sent.of(out)], [newer(out, [1, 2], train_loss=3.0)])
    rounds.watch([Sent.of(out)], [newer(out, 0, train_loss=3.0)])
    rounds.finish()

    assert [line.round for line in lines] == [1, 2]
    assert lines[0].loss == 3.0
    assert math.isnan(lines[1].loss)


def test_rounds_that_were_done_before_are_counted() -> None:
    lines = list[RoundLine]()
    rounds = Rounds(lines.append, after=4)
    out = asked("train", 1)
    rounds.watch([Sent.of(out)], [])
    rounds.finish()
    assert [(line.round, line.accepted, line.refused) for line in lines] == [(5, 0, 1)]
