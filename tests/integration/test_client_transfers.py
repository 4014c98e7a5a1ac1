"""Downloads and uploads over real gRPC, cut, damaged and refused: what arrives is exact."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract_server import BreakingLine, Misbehaving, blob, serving, sha

from fedloom.client.channel import Channel
from fedloom.client.contents import Contents
from fedloom.client.outbox import Finished, Outbox
from fedloom.client.refusals import is_passing
from fedloom.core.errors import IdentityError, TransferError
from fedloom.protos import federation_pb2 as wire

MB = 2**20


@pytest.fixture
def server() -> Misbehaving:
    return Misbehaving()


@pytest.fixture
def channel(server: Misbehaving) -> Iterator[Channel]:
    with serving(server) as port:
        made = Channel("127.0.0.1", port, name="device", idle=5.0)
        yield made
        made.close()


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def fetched(contents: Contents, data: bytes, channel: Channel, *, tries: int) -> int:
    """Fetch until it is there; how often that failed."""
    for failed in range(tries):
        try:
            path = contents.fetch(sha(data), len(data), channel.download)
        except TransferError as error:
            if not is_passing(error):
                raise
        else:
            assert path.read_bytes() == data
            return failed
    raise AssertionError(f"not there after {tries} tries")


def sent(outbox: Outbox, channel: Channel, *, tries: int) -> int:
    """Send the one result there is; how often that failed."""
    (finished,) = outbox.pending()
    for failed in range(tries):
        try:
            outbox.send(finished, channel)
        except TransferError as error:
            if not is_passing(error):
                raise
        else:
            assert outbox.pending() == []
            return failed
    raise AssertionError(f"not sent after {tries} tries")


def finished(data: bytes, ticket: str = "a" * 32) -> Finished:
    metrics = {"loss": 0.5, "accuracy": 0.75}
    return Finished(ticket, len(data), sha(data), "int8", 17, metrics, flops=2.0, round=3)


def test_a_download_cut_twenty_times_moves_each_byte_once(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(16 * MB + 12345)
    server.put(data)
    server.cut_down.extend([3] * 20)
    assert fetched(Contents(tmp_path), data, channel, tries=30) == 20
    # every chunk that the server sent before it cut had arrived, unless the cut overtook it
    assert server.down <= 1.05 * len(data)


def test_a_download_goes_on_in_another_process(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(3 * MB)
    server.put(data)
    server.cut_down.append(5)
    with pytest.raises(TransferError, match="no answer from"):
        Contents(tmp_path).fetch(sha(data), len(data), channel.download)
    (partial,) = (tmp_path / "blobs").glob("*.partial")
    assert 0 < partial.stat().st_size <= 5 * server.chunk
    assert fetched(Contents(tmp_path), data, channel, tries=1) == 0


def test_a_line_that_breaks_at_any_byte(tmp_path: Path) -> None:
    server, draw, data = Misbehaving(chunk=64 * 1024), random.Random(7), some(6 * MB)
    server.put(data)
    with serving(server) as port:
        line = BreakingLine(port, [draw.randrange(200_000, 900_000) for _ in range(10)])
        channel = Channel("127.0.0.1", line.port, name="device", idle=5.0)
        try:
            assert fetched(Contents(tmp_path / "down"), data, channel, tries=60) > 0
            line.budget.extend(draw.randrange(200_000, 900_000) for _ in range(5))
            outbox = Outbox(tmp_path / "up")
            outbox.put(finished(data), data)
            sent(outbox, channel, tries=60)
        finally:
            channel.close()
            line.close()
    assert server.results["a" * 32][1] == data
    # 15 breaks lose at most a chunk of 64 KiB and what stood in buffers each
    assert line.carried <= 1.25 * 2 * len(data)


@pytest.mark.parametrize("place", [0, 4, 11])
def test_a_damaged_chunk_is_asked_for_again(
    place: int, server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(3 * MB)
    server.put(data)

    def damage(chunk: wire.Chunk) -> None:
        chunk.data = chunk.data[:-1] + bytes([chunk.data[-1] ^ 1])

    server.spoil[place] = damage
    with pytest.raises(TransferError, match=r"the chunk at [\d,]+ was damaged") as caught:
        Contents(tmp_path).fetch(sha(data), len(data), channel.download)
    assert caught.value.code == "chunk-crc"
    (partial,) = (tmp_path / "blobs").glob("*.partial")
    assert partial.stat().st_size == place * server.chunk
    assert fetched(Contents(tmp_path), data, channel, tries=1) == 0


def test_a_chunk_out_of_its_place_is_not_written(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(2 * MB)
    server.put(data)

    def shift(chunk: wire.Chunk) -> None:
        chunk.offset += 1

    server.spoil[2] = shift
    with pytest.raises(TransferError, match="a chunk at 524,289, expected 524,288"):
        Contents(tmp_path).fetch(sha(data), len(data), channel.download)
    assert fetched(Contents(tmp_path), data, channel, tries=1) == 0


def test_another_content_under_the_address_starts_again(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(1 * MB)
    server.contents[sha(data)] = some(1 * MB, seed=2)
    with pytest.raises(TransferError, match="it is fetched again") as caught:
        Contents(tmp_path).fetch(sha(data), len(data), channel.download)
    assert caught.value.code == "digest"
    assert list((tmp_path / "blobs").iterdir()) == []
    server.put(data)
    assert fetched(Contents(tmp_path), data, channel, tries=1) == 0


def test_more_than_was_announced_is_not_written(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(1 * MB)
    server.contents[sha(data)] = data + b"more"
    with pytest.raises(TransferError, match="more than the 1,048,576 bytes announced"):
        Contents(tmp_path).fetch(sha(data), len(data), channel.download)


def test_an_upload_cut_twenty_times_moves_little_twice(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(8 * MB + 77)
    server.cut_up.extend([3] * 20)
    outbox = Outbox(tmp_path)
    outbox.put(finished(data), data)
    assert sent(outbox, channel, tries=30) == 20
    header, arrived = server.results["a" * 32]
    assert arrived == data
    assert (header.num_examples, header.codec, header.size) == (17, "int8", len(data))
    assert dict(header.metrics) == {"loss": 0.5, "accuracy": 0.75}
    assert server.up == len(data)  # what the server took in, each byte once


def test_a_first_upload_asks_nothing_and_a_restarted_one_does(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(1 * MB)
    outbox = Outbox(tmp_path)
    outbox.put(finished(data), data)
    sent(outbox, channel, tries=1)
    assert server.queries == 0
    outbox.put(finished(data, "b" * 32), data)
    again = Outbox(tmp_path)
    sent(again, channel, tries=1)
    assert server.queries == 1


def test_an_upload_goes_on_after_a_restart(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(2 * MB)
    outbox = Outbox(tmp_path)
    outbox.put(finished(data), data)
    server.cut_up.append(4)
    with pytest.raises(TransferError):
        outbox.send(outbox.pending()[0], channel)
    before = server.up
    assert before == 4 * 256 * 1024
    assert sent(Outbox(tmp_path), channel, tries=1) == 0
    assert server.up - before == len(data) - before


def test_a_receipt_that_was_lost_is_not_sent_for_again(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    data = some(1000)
    server.results["a" * 32] = (wire.UploadHeader(), data)
    outbox = Outbox(tmp_path)
    outbox.put(finished(data), data)
    restarted = Outbox(tmp_path)
    assert restarted.send(restarted.pending()[0], channel) == 1
    assert server.up == 0


def test_a_busy_server_says_when_to_come_again(
    server: Misbehaving, channel: Channel, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(finished(b"frame"), b"frame")
    server.refusals.append(("busy", 2.5))
    with pytest.raises(TransferError, match="refused: busy") as caught:
        outbox.send(outbox.pending()[0], channel)
    assert (caught.value.code, caught.value.retry_after) == ("busy", 2.5)
    assert sent(outbox, channel, tries=1) == 0


def test_refusals_have_their_codes(server: Misbehaving, channel: Channel, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(finished(b"frame"), b"frame")
    server.refusals.extend([("round-over", None), ("revoked", None)])
    with pytest.raises(TransferError) as over:
        outbox.send(outbox.pending()[0], channel)
    assert (over.value.code, is_passing(over.value)) == ("round-over", False)
    with pytest.raises(IdentityError, match="refused: revoked") as revoked:
        outbox.send(outbox.pending()[0], channel)
    assert revoked.value.code == "revoked"


def test_a_content_that_is_not_there(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such content") as caught:
        Contents(tmp_path).fetch(blob(b"x").sha256, 1, channel.download)
    assert caught.value.code == "no-such-content"


def test_nobody_answers() -> None:
    with serving(Misbehaving()) as port:
        pass
    channel = Channel("127.0.0.1", port, name="device")
    with pytest.raises(TransferError, match=r"no answer from 127.0.0.1:\d+: nothing listens") as e:
        channel.query_upload("a")
    assert is_passing(e.value)
    channel.close()


def test_a_transfer_that_stands_still_is_given_up(tmp_path: Path) -> None:
    server, data = Misbehaving(), some(1 * MB)
    server.put(data)
    server.spoil[2] = lambda _: time.sleep(1.5)
    with serving(server) as port:
        channel = Channel("127.0.0.1", port, name="device", idle=0.2)
        with pytest.raises(TransferError, match="nothing moved for 0 s") as caught:
            Contents(tmp_path).fetch(sha(data), len(data), channel.download)
        assert is_passing(caught.value)
        assert fetched(Contents(tmp_path), data, channel, tries=1) == 0
        channel.close()


def test_abandoned_calls_end_and_no_others_begin(server: Misbehaving, channel: Channel) -> None:
    channel.abandon()
    with pytest.raises(TransferError, match="given up") as caught:
        channel.query_upload("a")
    assert caught.value.code == "abandoned"
