import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from step_runs import LAYOUT, SEED, advance, start

from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink
from fedloom.core.step_ledger import advanced
from fedloom.core.types import Client, State
from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Board, Offer
from fedloom.server.contents import Content, Contents
from fedloom.server.database import Database
from fedloom.server.intake import Intake
from fedloom.server.models import Models
from fedloom.server.records import Ticket
from fedloom.server.register import Register
from fedloom.server.service import FederationCalls


class Call:
    method = "/fedloom.v1.Federation/CheckIn"
    invocation_metadata = ()


@pytest.fixture
def calls(tmp_path: Path) -> FederationCalls:
    return FederationCalls(
        lambda context: "attic",
        Board(),
        cast(Intake, SimpleNamespace(max_examples=10)),
        Register(Database.open(tmp_path / "state", exclusive=True)),
        Contents(),
        Content("0" * 64, 1),
    )


def check_in(calls: FederationCalls, **given: Any) -> pb.CheckInReply:
    request = pb.CheckInRequest(protocol=1, **given)
    method = calls.handler().service(cast(Any, Call()))
    answering = cast(Any, method).unary_unary
    reply = asyncio.run(answering(request.SerializeToString(), None))
    return cast(pb.CheckInReply, pb.CheckInReply.FromString(reply))


def test_a_device_without_examples_is_told_to_say_how_many(calls: FederationCalls) -> None:
    reply = check_in(calls)
    assert reply.wait == pb.Wait(seconds=0.0, reason="say how many examples you hold")
    assert reply.job.sha256 == "0" * 64


def test_a_device_without_examples_hears_of_the_end_too(calls: FederationCalls) -> None:
    calls.board.finish("all is done")
    assert check_in(calls).done.reason == "all is done"
    assert check_in(calls, num_examples=3).done.reason == "all is done"


def test_the_operator_reads_why_a_device_cannot_take_part(
    calls: FederationCalls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fedloom.server"), "propagate", True)
    check_in(calls, failure="notes.jsonl: no such file")
    assert "attic cannot take part: notes.jsonl: no such file" in caplog.text


def test_a_task_names_the_model_in_the_smallest_form(calls: FederationCalls) -> None:
    state = advanced(advanced(State(start()), advance(1), SEED), advance(2), SEED)
    made = Downlink(state, Float32(), LAYOUT, number=2)
    models = Models(made, calls.contents)
    whole = models.content
    offer = Offer(Ticket("t", 3, "attic"), "{}", whole.sha256, whole.size, 1e12, 9, models)
    calls.board.offer([offer])
    holds = {"version": 1, "digest": made.digest_of(1)}
    task = check_in(calls, num_examples=3, holds=holds).task
    assert (task.steps, task.base, task.keeps, task.digest) == (True, 1, 2, made.digest)
    assert task.model.size < whole.size
    assert calls.counting.resyncs == 0
    for given in ({"holds": {"version": 1, "digest": b"other"}}, {"resync": True}):
        task = check_in(calls, num_examples=3, **given).task
        assert (task.steps, task.model.sha256) == (False, whole.sha256)
    assert calls.counting.resyncs == 1  # once for each client and model


def test_a_device_says_of_what_kind_it_is(
    calls: FederationCalls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fedloom.server"), "propagate", True)
    calls.tiers = ["phone"]
    check_in(calls, num_examples=3, device={"tier": "phone", "memory": 2**30})
    assert calls.board.present(10.0) == (Client("attic", 3, "phone", 2**30),)
    for _ in range(2):
        check_in(calls, num_examples=3, device={"tier": "toaster"})
    assert calls.board.present(10.0) == (Client("attic", 3, ""),)
    text = "attic is of tier 'toaster', which the job does not know: it does as the job says"
    assert caplog.text.count(text) == 1
