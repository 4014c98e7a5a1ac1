"""Between messages of the wire and values of the core. Nothing else converts them."""

import math
import time
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from fedloom.core.contract import PROTOCOL
from fedloom.core.errors import TransferError
from fedloom.core.types import Cost
from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Offer
from fedloom.server.contents import Content
from fedloom.server.models import Given, Holding
from fedloom.server.records import Result

__all__ = [
    "LONGEST_POLL",
    "blob_of",
    "check_protocol",
    "device_of",
    "holding_of",
    "memory_of",
    "patience_of",
    "plain",
    "read",
    "result_of",
    "task_of",
]

LONGEST_POLL = 60.0
"""Seconds that a call for work is held back at most."""
Message = TypeVar("Message")

_METRICS = 64
_NAME = 100
_TEXT = 80


def check_protocol(version: int) -> None:
    """Raise `TransferError` (``protocol``) where a client speaks another version."""
    if version != PROTOCOL:
        text = f"protocol = {version}: this server speaks {PROTOCOL}; update the older side"
        raise TransferError(text, code="protocol")


def read(kind: type[Message], message: bytes) -> Message:
    """A message as its sender wrote it.

    Raises:
        TransferError: it is no such message.
    """
    reader: Any = kind
    try:
        found: Message = reader.FromString(message)
    except DecodeError as error:
        text = f"{len(message)} bytes that are no {kind.__name__}"
        raise TransferError(text, code="protocol") from error
    return found


def blob_of(content: Content) -> pb.Blob:
    """The address of a content."""
    return pb.Blob(sha256=content.sha256, size=content.size)


def task_of(offer: Offer, given: Given | None = None) -> pb.Task:
    """An offer as its client sees it, with what it is given to download for what it holds."""
    task = pb.Task(
        ticket=offer.ticket.id,
        attempt=offer.ticket.attempt,
        kind=offer.ticket.kind,
        order=offer.order,
        model=pb.Blob(sha256=offer.model, size=offer.model_size),
        deadline=max(0.0, offer.ends - time.monotonic()),
        max_bytes=offer.max_bytes,
    )
    if given is not None:
        task.model.CopyFrom(blob_of(given.content))
        task.steps, task.base = given.base is not None, given.base or 0
        task.keeps, task.digest = given.keeps, given.digest
    return task


def holding_of(request: pb.CheckInRequest) -> Holding | None:
    """What a client says it holds; None where it says nothing."""
    if not request.HasField("holds"):
        return None
    return Holding(request.holds.version, request.holds.digest)


def device_of(device: pb.Device) -> str:
    """A device in a few words, whatever it says."""
    memory = f", {device.memory / 2**30:.1f} GiB" if device.memory else ""
    text = f"{device.machine[:_TEXT]} {device.system[:_TEXT]}, {device.cores} cores{memory}"
    text += f", tier {device.tier[:_TEXT]}" if device.tier else ""
    return plain(text)


def memory_of(device: pb.Device) -> int:
    """Bytes that a device says training may take; no more than a ledger can hold."""
    return int(min(device.memory, 2**62))


def patience_of(request: pb.CheckInRequest) -> float:
    """Seconds that a client waits for work; none where it says no number."""
    wanted = request.wait_seconds
    return min(wanted, LONGEST_POLL) if wanted > 0 else 0.0


def plain(text: str) -> str:
    """What a client says, as a terminal and a log may show it."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def result_of(header: pb.UploadHeader) -> Result:
    """What a client declares of its result; numbers that are none are left out.

    Raises:
        TransferError: more metrics than a result may have, or a name that is too long.
    """
    if len(header.metrics) > _METRICS or any(len(name) > _NAME for name in header.metrics):
        text = f"{len(header.metrics)} metrics; at most {_METRICS}, names of {_NAME} characters"
        raise TransferError(text, code="protocol")
    return Result(
        size=header.size,
        sha256=header.sha256,
        codec=header.codec[:_NAME],
        num_examples=header.num_examples,
        metrics={k: v for k, v in sorted(header.metrics.items()) if math.isfinite(v)},
        cost=Cost(
            flops=_number(header.flops),
            seconds=_number(header.seconds),
            peak_memory=header.peak_memory,
            tokens=header.tokens,
            device_seconds=_number(header.seconds),
            network_seconds=_number(header.download_seconds),
        ),
    )


def _number(value: float) -> float:
    return value if math.isfinite(value) and value >= 0 else 0.0
