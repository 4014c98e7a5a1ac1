import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from small_server import Aborted, Context, begin_round, opened

from fedloom.core.errors import IdentityError
from fedloom.core.types import ClientId
from fedloom.protos import federation_pb2 as pb
from fedloom.server.federation import Federation
from fedloom.server.service import FederationCalls


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path, server={"max_examples": 100}) as found:
        yield found


def calls_of(federation: Federation, doorkeeper: Any = lambda _: "ann") -> FederationCalls:
    return FederationCalls(
        doorkeeper,
        federation.board,
        federation.intake,
        federation.register,
        federation.contents,
        federation.job,
        counting=federation.counting,
    )


class Details:
    def __init__(self, method: str) -> None:
        self.method = f"/fedloom.v1.Federation/{method}"


def call(calls: FederationCalls, method: str, request: Any, reply: Any) -> Any:
    """What a call answers, bytes to bytes."""
    handler = calls.handler().service(Details(method))
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    return reply.FromString(asyncio.run(handler.unary_unary(sent, Context())))


def check_in(calls: FederationCalls, **fields: Any) -> pb.CheckInReply:
    request = pb.CheckInRequest(**{"protocol": 1, "num_examples": 3, **fields})
    reply: pb.CheckInReply = call(calls, "CheckIn", request, pb.CheckInReply)
    return reply


def test_a_check_in_brings_the_job_and_the_task_that_hangs_out(federation: Federation) -> None:
    calls = calls_of(federation)
    first = check_in(calls)
    assert (first.job.sha256, first.job.size) == (federation.job.sha256, federation.job.size)
    assert first.wait.reason == "no work yet"
    ticket = begin_round(federation, ["ann"])["ann"]
    assert check_in(calls).task.ticket == ticket.id
    assert check_in(calls, num_examples=0).wait.reason == "say how many examples you hold"
    check_in(calls, failed=ticket.id, failure="no memory")
    assert federation.board.offered("ann") is None
    federation.board.finish("over")
    assert check_in(calls).done.reason == "over"
    assert federation.counting.check_ins == 5


def test_refusals_are_counted_and_told(federation: Federation) -> None:
    calls = calls_of(federation)
    for fields, code in (({"protocol": 2}, "protocol"), ({"num_examples": 101}, "weight")):
        with pytest.raises(Aborted) as caught:
            check_in(calls, **fields)
        assert caught.value.trailers["fedloom-reason"] == code
    with pytest.raises(Aborted, match="this federation has no certificates"):
        call(calls, "Renew", pb.RenewRequest(), pb.RenewReply)
    with pytest.raises(Aborted, match="2 bytes that are no QueryUploadRequest"):
        call(calls, "QueryUpload", b"\xff\xff", pb.UploadStatus)
    assert federation.counting.refused == {"protocol": 3, "weight": 1}


def test_a_disk_that_is_full_is_told_as_such(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(federation.intake, "gave_up", full)
    with pytest.raises(Aborted, match="No space left on device") as caught:
        check_in(calls_of(federation), failed="x")
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_who_is_shut_out_while_it_waits_is_told(federation: Federation) -> None:
    heard: list[int] = []

    def doorkeeper(_: object) -> ClientId:
        heard.append(1)
        if len(heard) > 1:
            raise IdentityError("revoked", code="revoked")
        return "ann"

    with pytest.raises(Aborted) as caught:
        check_in(calls_of(federation, doorkeeper))
    assert caught.value.status is grpc.StatusCode.PERMISSION_DENIED


def test_of_very_many_clients_not_all_come_at_once(federation: Federation) -> None:
    calls = calls_of(federation)
    for number in range(500):
        federation.board.seen(f"c{number}", 3)
    assert calls._pace() == 0.0
    for number in range(500, 1000):
        federation.board.seen(f"c{number}", 3)
    assert calls._pace() == 2.0  # 1,000 of them, 500 a second


def test_an_upload_is_asked_for_by_its_ticket(federation: Federation) -> None:
    calls, ticket = calls_of(federation), begin_round(federation, ["ann", "bob"])["ann"]
    request = pb.QueryUploadRequest(ticket=ticket.id)
    assert call(calls, "QueryUpload", request, pb.UploadStatus).offset == 0
    other = replace(calls, doorkeeper=lambda _: "bob")
    with pytest.raises(Aborted, match="another client's"):
        call(other, "QueryUpload", request, pb.UploadStatus)
