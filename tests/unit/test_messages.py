import time
from dataclasses import replace

import pytest

from fedloom.core.errors import TransferError
from fedloom.core.types import Cost
from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Offer
from fedloom.server.contents import Content
from fedloom.server.messages import (
    blob_of,
    device_of,
    holding_of,
    memory_of,
    patience_of,
    plain,
    read,
    result_of,
    task_of,
)
from fedloom.server.models import Given, Holding
from fedloom.server.records import Result, Ticket

NAN, INFINITE = float("nan"), float("inf")


def test_a_message_is_read_or_refused() -> None:
    sent = pb.QueryUploadRequest(ticket="x")
    assert read(pb.QueryUploadRequest, sent.SerializeToString()) == sent
    with pytest.raises(TransferError, match="2 bytes that are no QueryUploadRequest") as caught:
        read(pb.QueryUploadRequest, b"\xff\xff")
    assert caught.value.code == "protocol"


def test_an_offer_as_its_client_sees_it() -> None:
    ticket = Ticket("a" * 32, 3, "ann", attempt=2)
    ends = time.monotonic() + 100
    task = task_of(Offer(ticket, "{}", "ab" * 32, 5, ends, 1000))
    assert (task.ticket, task.attempt, task.kind, task.order) == ("a" * 32, 2, "train", "{}")
    assert (task.model, task.max_bytes) == (blob_of(Content("ab" * 32, 5)), 1000)
    assert 0 < task.deadline <= 100
    assert task_of(Offer(ticket, "{}", "", 0, 0.0, 0)).deadline == 0.0


def test_what_a_client_holds_and_is_given() -> None:
    request = pb.CheckInRequest()
    assert holding_of(request) is None
    request.holds.version, request.holds.digest = 7, b"d"
    assert holding_of(request) == Holding(7, b"d")
    offer = Offer(Ticket("a" * 32, 3, "ann"), "{}", "ab" * 32, 5, 0.0, 1000)
    task = task_of(offer, Given(Content("cd" * 32, 2), 7, 9, b"e"))
    assert (task.model.sha256, task.model.size) == ("cd" * 32, 2)
    assert (task.steps, task.base, task.keeps, task.digest) == (True, 7, 9, b"e")
    whole = task_of(offer, Given(Content("ab" * 32, 5), None, 9, b""))
    assert (whole.steps, whole.base, whole.model) == (False, 0, task_of(offer).model)


def test_a_device_in_a_few_words() -> None:
    device = pb.Device(machine="aarch64", system="Linux 6.6", cores=4, memory=2**31)
    assert device_of(device) == "aarch64 Linux 6.6, 4 cores, 2.0 GiB"
    assert device_of(pb.Device()) == ", 0 cores"
    phone = pb.Device(machine="aarch64", system="Android", cores=8, tier="phone\n")
    assert device_of(phone) == "aarch64 Android, 8 cores, tier phone"
    rude = pb.Device(machine="\x1b[2J" + "x" * 1000, memory=2**64 - 1)
    assert (memory_of(device), memory_of(pb.Device())) == (2**31, 0)
    assert memory_of(rude) == 2**62  # more than that, a ledger could not write down
    assert device_of(rude) == "[2J" + "x" * 76 + " , 0 cores, 17179869184.0 GiB"


def test_what_clients_say_shows_on_one_line() -> None:
    assert plain(" a\nb\t\x1b[31mc\u202e ") == "a b [31mc"


@pytest.mark.parametrize(
    ("said", "waits"),
    [(5.0, 5.0), (0.0, 0.0), (-1.0, 0.0), (NAN, 0.0), (INFINITE, 60.0), (1e9, 60.0)],
)
def test_how_long_a_client_waits(said: float, waits: float) -> None:
    assert patience_of(pb.CheckInRequest(wait_seconds=said)) == waits


def test_a_result_is_what_its_header_declares() -> None:
    header = pb.UploadHeader(
        ticket="t",
        size=5,
        sha256="ab",
        codec="int8",
        num_examples=7,
        metrics={"b": 2.0, "a": 1.0, "none": NAN},
        flops=3.0,
        seconds=4.0,
        peak_memory=6,
        tokens=8,
        download_seconds=0.5,
    )
    # a device's own seconds are what its training takes: no model of it is needed
    cost = Cost(flops=3.0, seconds=4.0, peak_memory=6, tokens=8, device_seconds=4.0)
    cost = replace(cost, network_seconds=0.5)
    assert result_of(header) == Result(5, "ab", "int8", 7, {"a": 1.0, "b": 2.0}, cost)


def test_numbers_that_are_none_cost_nothing() -> None:
    for number in (NAN, INFINITE, -1.0):
        assert (
            result_of(pb.UploadHeader(flops=number, seconds=number, download_seconds=number)).cost
            == Cost()
        )


def test_a_result_has_few_metrics_of_short_names() -> None:
    result_of(pb.UploadHeader(metrics={f"m{i}": 1.0 for i in range(64)}))
    for metrics in ({f"m{i}": 1.0 for i in range(65)}, {"x" * 101: 1.0}):
        with pytest.raises(TransferError, match="at most 64, names of 100") as caught:
            result_of(pb.UploadHeader(metrics=metrics))
        assert caught.value.code == "protocol"
