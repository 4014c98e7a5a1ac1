"""One message of every kind that a client sends and receives, for the conformance vectors."""

import json
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from google.protobuf.message import Message

from fedloom.core.contract import PROTOCOL
from fedloom.core.types import ClientTask
from fedloom.protos import federation_pb2 as pb
from fedloom.server.live_round import order_of

SHA = "ab" * 32
BLOB = pb.Blob(sha256=SHA, size=600_000)
DATA = b"chunk of a content"
CHUNK = pb.Chunk(offset=262_144, crc32=crc32(DATA), data=DATA)
TICKET = "0123456789abcdef0123456789abcdef"


def order() -> str:
    """A work order."""
    return order_of(ClientTask("alice", 3, 3, seed=7), 0)


def messages() -> dict[str, tuple[str, Message]]:
    """Messages by file name, each with the call that it is of."""
    task = pb.Task(
        ticket=TICKET,
        attempt=1,
        kind="train",
        order=order(),
        model=BLOB,
        deadline=120.0,
        max_bytes=5_000,
        steps=True,
        base=3,
        keeps=4,
        digest=bytes(range(16)),
    )
    header = pb.UploadHeader(
        ticket=TICKET,
        size=len(DATA),
        sha256=SHA,
        codec="scalars",
        num_examples=120,
        metrics={"loss": 0.75, "accuracy": 0.5},
        flops=1e9,
        seconds=2.5,
        peak_memory=300_000_000,
        tokens=4_096,
        download_seconds=0.25,
    )
    checking = pb.CheckInRequest(
        protocol=PROTOCOL,
        version="kotlin 0.1",
        num_examples=120,
        wait_seconds=60.0,
        device=pb.Device(
            machine="aarch64", system="Android 15", cores=8, memory=2**31, tier="phone"
        ),
        holds=pb.Holding(version=3, digest=bytes(range(16))),
    )
    enrol = pb.EnrolRequest(
        protocol=PROTOCOL,
        version="kotlin 0.1",
        token_id="0123456789ab",
        secret="s" * 32,
        name="alice",
        csr=b"\x30\x03\x02\x01\x00",
    )
    federation, pem = "123e4567-e89b-12d3-a456-426614174000", b"-----BEGIN CERTIFICATE-----\n"
    enrolled = pb.EnrolReply(federation=federation, client="alice", certificate=pem, port=7441)
    given_up = pb.CheckInRequest(protocol=PROTOCOL, failed=TICKET, failure="memory", resync=True)
    known = pb.UploadStatus(offset=0, receipt=pb.Receipt(seq=300))
    return {
        "enrol-request": ("Enrol", enrol),
        "enrol-reply": ("Enrol", enrolled),
        "renew-request": ("Renew", pb.RenewRequest(csr=enrol.csr)),
        "renew-reply": ("Renew", pb.RenewReply(certificate=pem)),
        "check-in-request": ("CheckIn", checking),
        "check-in-gives-up": ("CheckIn", given_up),
        "check-in-task": ("CheckIn", pb.CheckInReply(job=BLOB, task=task)),
        "check-in-wait": (
            "CheckIn",
            pb.CheckInReply(job=BLOB, wait=pb.Wait(seconds=5.0, reason="no round is open")),
        ),
        "check-in-done": ("CheckIn", pb.CheckInReply(job=BLOB, done=pb.Done(reason="finished"))),
        "download-request": ("Download", pb.DownloadRequest(sha256=SHA, offset=262_144)),
        "download-chunk": ("Download", CHUNK),
        "upload-header": ("Upload", pb.UploadPart(header=header)),
        "upload-chunk": ("Upload", pb.UploadPart(chunk=CHUNK)),
        "upload-receipt": ("Upload", pb.Receipt(seq=300)),
        "query-request": ("QueryUpload", pb.QueryUploadRequest(ticket=TICKET)),
        "query-partly": ("QueryUpload", pb.UploadStatus(offset=10)),
        "query-done": ("QueryUpload", known),
    }


def message_vectors() -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """File name, what JSON says, and the bytes of each message; maps in the order of their keys."""
    for name, (call, message) in messages().items():
        about = {"call": call, "message": message.DESCRIPTOR.name, "fields": fields(message)}
        yield f"{name}.bin", about, message.SerializeToString(deterministic=True)


def fields(message: Message) -> list[list[Any]]:
    """``[number, name, type, value]`` of the fields that are set; bytes as hex digits."""
    found = []
    for field, value in message.ListFields():
        kind, told = _KINDS[field.type], value
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            kind, told = "map<string, double>", dict(sorted(value.items()))
        elif isinstance(value, Message):
            told = fields(value)
        elif isinstance(value, bytes):
            told = value.hex()
        found.append([field.number, field.name, kind, told])
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


_KINDS = {
    1: "double",
    4: "uint64",
    7: "fixed32",
    8: "bool",
    9: "string",
    11: "message",
    12: "bytes",
    13: "uint32",
}
"""Types by protobuf's numbers of them."""
