import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Board
from fedloom.server.contents import Content, Contents
from fedloom.server.database import Database
from fedloom.server.intake import Intake
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
