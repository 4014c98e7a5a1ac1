import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedloom.client.outbox import Finished, Outbox
from fedloom.core.errors import TransferError
from fedloom.protos.federation_pb2 import Receipt, UploadPart, UploadStatus

FRAME = b"frame" * 100_000
DONE = Finished("t1", len(FRAME), hashlib.sha256(FRAME).hexdigest(), "float32", 9, {"loss": 0.5})


class Server:
    """Takes `takes` bytes at most of each upload, then cuts it."""

    def __init__(self, takes: int = 1 << 40) -> None:
        self.takes, self.have, self.asked, self.chunks = takes, b"", 0, list[int]()
        self.receipt = 0

    def query_upload(self, ticket: str) -> UploadStatus:
        self.asked += 1
        if self.receipt:
            return UploadStatus(receipt=Receipt(seq=self.receipt))
        return UploadStatus(offset=len(self.have))

    def upload(self, parts: Iterator[UploadPart]) -> int:
        header = next(parts).header
        assert header.offset == len(self.have)
        took = 0
        for part in parts:
            if took + len(part.chunk.data) > self.takes:
                raise TransferError("cut", code="unreachable", retry_after=0.0)
            assert part.chunk.offset == len(self.have)
            self.have += part.chunk.data
            took += len(part.chunk.data)
            self.chunks.append(len(part.chunk.data))
        return 7


def test_a_result_is_sent_and_forgotten(tmp_path: Path) -> None:
    outbox, server = Outbox(tmp_path), Server()
    outbox.put(DONE, FRAME)
    assert outbox.holds("t1")
    assert outbox.pending() == [DONE]
    assert outbox.send(DONE, server) == 7
    assert server.have == FRAME
    assert server.asked == 0
    assert not outbox.holds("t1")
    assert list(tmp_path.iterdir()) == []


def test_after_a_cut_the_server_is_asked_and_chunks_are_smaller(tmp_path: Path) -> None:
    outbox, server = Outbox(tmp_path), Server()
    outbox.put(DONE, FRAME)
    advanced: list[str] = []
    for takes in (300_000, 70_000):  # a chunk of 256 KiB, then one of 64 KiB
        server.takes = takes
        with pytest.raises(TransferError):
            outbox.send(DONE, server, lambda: advanced.append("on"))
    server.takes = 1 << 40
    outbox.send(DONE, server, lambda: advanced.append("on"))
    assert server.have == FRAME
    assert server.chunks[0] == 256 * 1024
    assert max(server.chunks[1:]) == 64 * 1024
    assert advanced == ["on", "on"]


def test_a_result_survives_a_restart(tmp_path: Path) -> None:
    Outbox(tmp_path).put(DONE, FRAME)
    again = Outbox(tmp_path)
    assert again.pending() == [DONE]
    server = Server()
    server.receipt = 12
    assert again.send(DONE, server) == 12
    assert again.pending() == []


def test_what_was_not_finished_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "t1.frame").write_bytes(FRAME)
    (tmp_path / "t2.draft").write_bytes(b"{")
    assert Outbox(tmp_path).pending() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", '{"ticket": 3}', "[]", '{"ticket": "t1", "size": 4}'])
def test_a_damaged_result_is_dropped(text: str, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(DONE, FRAME)
    (tmp_path / "t1.json").write_text(text)
    assert outbox.pending() == []
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(DONE, FRAME)
    assert not outbox.damaged(DONE)
    (tmp_path / "t1.frame").write_bytes(b"x" * len(FRAME))
    assert outbox.damaged(DONE)


def test_a_result_without_a_payload(tmp_path: Path) -> None:
    outbox, server = Outbox(tmp_path), Server()
    nothing = Finished("t9", metrics={"loss": float("nan")}, num_examples=3)
    outbox.put(nothing, b"")
    (found,) = Outbox(tmp_path).pending()
    assert json.dumps(dict(found.metrics)) == '{"loss": NaN}'
    assert outbox.send(nothing, server) == 7
    assert server.have == b""


@pytest.mark.parametrize("ticket", ["", "../t", "a/b", "a.b", "x" * 101])
def test_a_ticket_is_no_path(ticket: str, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="not one of ours"):
        Outbox(tmp_path).put(replace(DONE, ticket=ticket), FRAME)


def test_the_header_of_an_upload() -> None:
    header = replace(DONE, flops=2.0, seconds=1.5, peak_memory=4, round=3).header(100)
    assert (header.ticket, header.size, header.sha256) == ("t1", len(FRAME), DONE.sha256)
    assert (header.codec, header.num_examples, header.offset) == ("float32", 9, 100)
    assert (header.flops, header.seconds, header.peak_memory) == (2.0, 1.5, 4)
    assert dict(header.metrics) == {"loss": 0.5}
