import hashlib
import os
import zlib
from pathlib import Path

import pytest

from fedloom.core.errors import TransferError
from fedloom.server.upload import Upload
from fedloom.server.uploads import SMALL, Uploads
from fedloom.server.wire import MAX_CHUNK

TICKET, OTHER, THIRD = "a" * 32, "b" * 32, "c" * 32
DATA = bytes(i % 251 for i in range(1000))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def begun(uploads: Uploads, data: bytes = DATA, ticket: str = TICKET, offset: int = 0) -> Upload:
    return uploads.begin(ticket, len(data), sha256=sha(data), offset=offset)


def send(upload: Upload, data: bytes, *, upto: int | None = None, chunk: int = 100) -> None:
    stop = len(data) if upto is None else upto
    while upload.offset < stop:
        part = data[upload.offset : min(upload.offset + chunk, stop)]
        upload.append(upload.offset, zlib.crc32(part), part)
        if upload.due:
            upload.write()


def bytes_of(payload: bytearray | Path) -> bytes:
    return payload.read_bytes() if isinstance(payload, Path) else bytes(payload)


def in_memory(folder: Path, limit: int = 4 << 20) -> Uploads:
    return Uploads(folder / "staging", limit)


def in_files(folder: Path) -> Uploads:
    """Every payload of more than 64 bytes goes to a file, 64 bytes or a chunk more at a time."""
    return Uploads(folder / "staging", 4 << 20, small=64)


@pytest.mark.parametrize("chunk", [1, 100, 999, 1000])
def test_a_small_payload_arrives_in_one_buffer(tmp_path: Path, chunk: int) -> None:
    uploads = in_memory(tmp_path)
    upload = begun(uploads)
    assert uploads.held == 1000
    send(upload, DATA, chunk=chunk)
    payload = upload.finish()
    assert isinstance(payload, bytearray)
    assert bytes_of(payload) == DATA
    assert uploads.held == 1000  # until it is dropped
    uploads.drop(TICKET)
    assert (uploads.held, len(uploads)) == (0, 0)
    assert bytes(payload) == DATA


@pytest.mark.parametrize("chunk", [1, 30, 100, 1000])
def test_a_long_payload_arrives_in_a_file(tmp_path: Path, chunk: int) -> None:
    uploads = in_files(tmp_path)
    upload = begun(uploads)
    send(upload, DATA, chunk=chunk)
    payload = upload.finish()
    assert payload == tmp_path / "staging" / f"{TICKET}.part"
    assert bytes_of(payload) == DATA
    assert uploads.held == 0
    assert payload.stat().st_mode & 0o777 == 0o600
    uploads.drop(TICKET)
    assert not payload.exists()


def test_a_file_that_was_moved_away_is_dropped_without_a_word(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    upload = begun(uploads)
    send(upload, DATA)
    payload = upload.finish()
    assert isinstance(payload, Path)
    payload.rename(tmp_path / "adopted")
    uploads.drop(TICKET)
    assert (tmp_path / "adopted").read_bytes() == DATA


def test_a_payload_of_nothing_is_whole_at_once(tmp_path: Path) -> None:
    assert bytes_of(begun(in_memory(tmp_path), b"").finish()) == b""


@pytest.mark.parametrize(
    ("offset", "crc32", "data", "code"),
    [
        (100, 0, b"", "protocol"),
        (100, zlib.crc32(bytes(MAX_CHUNK + 1)), bytes(MAX_CHUNK + 1), "too-large"),
        (99, zlib.crc32(b"x"), b"x", "chunk-order"),
        (101, zlib.crc32(b"x"), b"x", "chunk-order"),
        (2**64 - 1, zlib.crc32(b"x"), b"x", "chunk-order"),
        (100, zlib.crc32(bytes(901)), bytes(901), "too-large"),
        (100, zlib.crc32(b"x") ^ 1, b"x", "chunk-crc"),
    ],
)
@pytest.mark.parametrize("make", [in_memory, in_files])
def test_a_bad_chunk_is_refused_and_the_next_good_one_taken(
    tmp_path: Path, make: object, offset: int, crc32: int, data: bytes, code: str
) -> None:
    assert callable(make)
    upload = begun(make(tmp_path))
    send(upload, DATA, upto=100)
    with pytest.raises(TransferError) as refusal:
        upload.append(offset, crc32, data)
    assert refusal.value.code == code
    assert upload.offset == 100
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


@pytest.mark.parametrize(
    "ticket", ["", "a" * 31, "a" * 33, "A" * 32, "../" + "a" * 29, "a" * 31 + "/", "a" * 32 + "\n"]
)
def test_a_ticket_that_could_be_a_path_is_refused(tmp_path: Path, ticket: str) -> None:
    uploads = in_memory(tmp_path)
    for use in (uploads.status, uploads.drop, lambda name: begun(uploads, ticket=name)):
        with pytest.raises(TransferError, match="32 hex digits") as refusal:
            use(ticket)
        assert refusal.value.code == "ticket-unknown"


@pytest.mark.parametrize("size", [-1, (1 << 40) + 1, 2**63, 2**64 - 1])
def test_a_monstrous_size_is_refused_before_any_memory_is_taken(tmp_path: Path, size: int) -> None:
    uploads = in_memory(tmp_path)
    with pytest.raises(TransferError, match=f"a payload of {size} bytes") as refusal:
        uploads.begin(TICKET, size, sha256=sha(b""), offset=0)
    assert refusal.value.code == "too-large"
    assert len(uploads) == 0


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 63 + "G", sha(b"").upper()])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(TransferError, match="64 hex digits"):
        in_memory(tmp_path).begin(TICKET, 1, sha256=sha256, offset=0)


@pytest.mark.parametrize("make", [in_memory, in_files])
def test_a_cut_upload_goes_on_where_it_stopped(tmp_path: Path, make: object) -> None:
    assert callable(make)
    uploads = make(tmp_path)
    for stop in (130, 370, 380):
        upload = begun(uploads, offset=uploads.status(TICKET))
        send(upload, DATA, upto=stop)
        upload.pause()
        assert uploads.status(TICKET) == stop
    upload = begun(uploads, offset=380)
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


@pytest.mark.parametrize("make", [in_memory, in_files])
@pytest.mark.parametrize("back", [0, 50, 370, 379])
def test_a_client_may_go_back(tmp_path: Path, make: object, back: int) -> None:
    assert callable(make)
    uploads = make(tmp_path)
    send(begun(uploads), DATA, upto=380)
    upload = begun(uploads, offset=back)
    assert upload.offset == back
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


@pytest.mark.parametrize("offset", [1, 381, 2**63])
def test_a_client_cannot_leave_bytes_out(tmp_path: Path, offset: int) -> None:
    uploads = in_memory(tmp_path)
    if offset == 381:
        send(begun(uploads), DATA, upto=380)
    with pytest.raises(TransferError, match=f"goes on at {offset}") as refusal:
        begun(uploads, offset=offset)
    assert refusal.value.code == "chunk-order"


def test_a_later_stream_takes_over(tmp_path: Path) -> None:
    uploads = in_memory(tmp_path)
    first = begun(uploads)
    send(first, DATA, upto=100)
    second = begun(uploads, offset=100)
    for use in (lambda: send(first, DATA), first.write, first.finish):
        with pytest.raises(TransferError, match="another took over") as refusal:
            use()
        assert refusal.value.code == "busy"
    first.pause()  # does not touch what is no longer its own
    send(second, DATA)
    assert bytes_of(second.finish()) == DATA


def test_too_few_bytes_are_not_a_payload_yet(tmp_path: Path) -> None:
    upload = begun(in_memory(tmp_path))
    send(upload, DATA, upto=999)
    with pytest.raises(TransferError, match="999 of 1000 bytes") as refusal:
        upload.finish()
    assert refusal.value.code == "too-short"
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


@pytest.mark.parametrize("make", [in_memory, in_files])
def test_other_bytes_than_declared_begin_again(tmp_path: Path, make: object) -> None:
    assert callable(make)
    uploads = make(tmp_path)
    upload = begun(uploads)
    send(upload, DATA[::-1])
    with pytest.raises(TransferError, match="declared was") as refusal:
        upload.finish()
    assert refusal.value.code == "digest"
    assert (upload.offset, uploads.status(TICKET)) == (0, 0)
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


@pytest.mark.parametrize("make", [in_memory, in_files])
def test_another_payload_under_the_same_ticket_begins_anew(tmp_path: Path, make: object) -> None:
    assert callable(make)
    uploads = make(tmp_path)
    first = begun(uploads)
    send(first, DATA, upto=500)
    first.pause()
    other = DATA[::-1]
    upload = begun(uploads, other)
    assert upload.offset == 0
    send(upload, other)
    assert bytes_of(upload.finish()) == other


def test_a_whole_payload_is_nobody_elses(tmp_path: Path) -> None:
    uploads = in_memory(tmp_path)
    upload = begun(uploads)
    send(upload, DATA)
    payload = upload.finish()
    for data in (DATA, DATA[::-1]):
        with pytest.raises(TransferError, match="just being written") as refusal:
            begun(uploads, data)
        assert refusal.value.code == "busy"
    assert bytes_of(payload) == DATA


def test_a_long_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = begun(in_files(tmp_path))
    send(first, DATA, upto=500)
    first.pause()
    uploads = in_files(tmp_path)
    assert uploads.status(TICKET) == 500
    upload = begun(uploads, offset=500)
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


def test_after_a_restart_a_small_payload_has_nothing_of_a_long_one(tmp_path: Path) -> None:
    send(upload := begun(in_files(tmp_path)), DATA, upto=500)
    upload.pause()
    again = in_files(tmp_path)
    assert again.status(TICKET) > 0
    begun(again, b"few")
    assert again.status(TICKET) == 0
    again.drop(TICKET)
    assert again.status(TICKET) == 0


def test_what_a_crash_left_wrong_is_found_by_the_digest(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    (tmp_path / "staging" / f"{TICKET}.part").write_bytes(bytes(500))
    upload = begun(uploads, offset=500)
    send(upload, DATA)
    with pytest.raises(TransferError, match="declared was"):
        upload.finish()
    assert uploads.status(TICKET) == 0


def test_a_file_longer_than_the_payload_begins_anew(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    (tmp_path / "staging" / f"{TICKET}.part").write_bytes(bytes(1001))
    assert begun(uploads).offset == 0


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    (tmp_path / "staging" / f"{TICKET}.part").symlink_to(tmp_path / "elsewhere")
    upload = begun(uploads)
    with pytest.raises(TransferError, match="disk does not take the upload"):
        send(upload, DATA)
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_fails_costs_nothing_that_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    upload = begun(in_files(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(TransferError, match="No space left") as refusal:
            send(upload, DATA)
    assert refusal.value.code == "disk-full"
    assert refusal.value.retry_after
    assert upload.offset == 100
    send(upload, DATA)
    assert bytes_of(upload.finish()) == DATA


def test_a_pause_on_a_failing_disk_keeps_what_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = in_files(tmp_path)
    upload = begun(uploads)
    send(upload, DATA, upto=230)  # written at 100 and 200
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: os.lseek(-1, 0, 0))
        upload.pause()
    assert (uploads.status(TICKET), uploads.held) == (200, 0)


def test_writing_happens_by_itself_where_nobody_asks(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    upload = begun(uploads)
    for at in range(0, 1000, 100):
        upload.append(at, zlib.crc32(DATA[at : at + 100]), DATA[at : at + 100])
    assert bytes_of(upload.finish()) == DATA


def test_memory_is_bounded_by_what_is_declared(tmp_path: Path) -> None:
    uploads = in_memory(tmp_path, limit=2500)
    first, _ = begun(uploads), begun(uploads, ticket=OTHER)
    with pytest.raises(TransferError, match="2500 bytes for arriving payloads") as refusal:
        begun(uploads, ticket=THIRD)
    assert refusal.value.code == "busy"
    assert refusal.value.retry_after
    assert (len(uploads), uploads.held) == (2, 2000)
    send(first, DATA)
    first.finish()
    with pytest.raises(TransferError, match="are taken"):
        begun(uploads, ticket=THIRD)  # finished, but not yet on the disk
    uploads.drop(TICKET)
    begun(uploads, ticket=THIRD)


def test_a_payload_larger_than_the_memory_could_ever_hold_is_refused_for_good(
    tmp_path: Path,
) -> None:
    with pytest.raises(TransferError, match="this server takes 2500") as refusal:
        begun(in_memory(tmp_path, limit=2500), bytes(2501))
    assert refusal.value.retry_after is None


def test_room_is_made_of_the_oldest_that_stand_still(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, 2000, clock=clock)
    for ticket in (TICKET, OTHER):
        clock.now += 1
        upload = begun(uploads, ticket=ticket)
        send(upload, DATA, upto=500)
        upload.pause()
    begun(uploads, ticket=THIRD)
    assert [uploads.status(ticket) for ticket in (TICKET, OTHER)] == [0, 500]


def test_a_stream_without_a_byte_for_long_loses_its_room(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, 2000, clock=clock)
    slow, quick = begun(uploads), begun(uploads, ticket=OTHER)
    clock.now = 29.0
    send(quick, DATA, upto=500)
    with pytest.raises(TransferError, match="are taken"):
        begun(uploads, ticket=THIRD)
    clock.now = 31.0
    begun(uploads, ticket=THIRD)
    with pytest.raises(TransferError, match="stood still"):
        send(slow, DATA)
    send(quick, DATA)
    assert bytes_of(quick.finish()) == DATA


def test_of_a_long_upload_only_what_was_not_written_is_given_up(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, 1000, small=64, clock=clock)
    long = begun(uploads)
    assert uploads.held == 1000
    send(long, DATA, upto=230)  # written at 100 and 200
    clock.now = 31.0
    begun(uploads, DATA[:10], OTHER)
    assert (uploads.status(TICKET), uploads.held) == (200, 10)
    uploads.drop(OTHER)
    again = begun(uploads, offset=200)
    send(again, DATA)
    assert bytes_of(again.finish()) == DATA


def test_a_paused_long_upload_takes_no_memory(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    upload = begun(uploads)
    send(upload, DATA, upto=230)
    assert uploads.held == 1000
    upload.pause()
    assert (uploads.held, uploads.status(TICKET)) == (0, 230)


def test_the_sweep_takes_what_lay_for_long(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, 1 << 20, clock=clock)
    send(begun(uploads), DATA, upto=500)
    clock.now = 500.0
    begun(uploads, ticket=OTHER)
    clock.now = 601.0
    assert uploads.sweep() == 1
    assert (uploads.status(TICKET), uploads.held) == (0, 1000)


def test_a_payload_at_work_is_neither_taken_over_nor_given_up(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, 1000, clock=clock)
    upload = begun(uploads)
    with upload._entry.lock:  # as a blocking call in a thread holds it
        clock.now = 1000.0
        with pytest.raises(TransferError, match="just being written"):
            begun(uploads)
        with pytest.raises(TransferError, match="are taken"):
            begun(uploads, ticket=OTHER)
        assert uploads.sweep() == 0


def test_only_live_tickets_are_kept(tmp_path: Path) -> None:
    uploads = in_files(tmp_path)
    for ticket in (TICKET, OTHER):
        send(begun(uploads, ticket=ticket), DATA, upto=300)
    (tmp_path / "staging" / f"{THIRD}.part").write_bytes(b"of an earlier process")
    (tmp_path / "staging" / "notes.part").write_bytes(b"not ours")
    uploads.retain([OTHER])
    left = {path.name for path in (tmp_path / "staging").iterdir()}
    assert left == {f"{OTHER}.part", "notes.part"}
    assert len(uploads) == 1


def test_long_begins_above_four_mebibytes(tmp_path: Path) -> None:
    assert SMALL == 4 << 20
    assert Uploads(tmp_path, 256 << 20).small == SMALL
    assert Uploads(tmp_path, 1 << 20).small == 1 << 19  # half of a small memory
