import hashlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from fedloom.core.errors import TransferError
from fedloom.server.contents import Content, Contents, Piece
from fedloom.server.wire import MAX_CHUNK

DATA = bytes(i % 251 for i in range(2 * MAX_CHUNK + 1000))


def checked(pieces: Iterable[Piece], offset: int) -> bytes:
    """The pieces put together, each where it says and as it says."""
    out = b""
    for at, crc32, data in pieces:
        assert at == offset + len(out)
        assert crc32 == zlib.crc32(data)
        assert 0 < len(data) <= MAX_CHUNK
        out += data
    return out


def stored(contents: Contents, folder: Path, *, in_file: bool) -> Content:
    if not in_file:
        return contents.put_bytes(DATA)
    path = folder / "backbone.bin"
    path.write_bytes(DATA)
    return contents.put_file(path)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("offset", [0, 1, MAX_CHUNK - 1, MAX_CHUNK, 2 * MAX_CHUNK + 999, len(DATA)])
def test_a_content_comes_back_from_any_offset(tmp_path: Path, in_file: bool, offset: int) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=in_file)
    assert content == Content(hashlib.sha256(DATA).hexdigest(), len(DATA))
    assert checked(contents.open(content.sha256, offset), offset) == DATA[offset:]


@pytest.mark.parametrize("in_file", [False, True])
def test_who_goes_on_gets_smaller_pieces(tmp_path: Path, in_file: bool) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=in_file)
    quarter = MAX_CHUNK // 4
    sizes = [len(data) for _, _, data in contents.open(content.sha256, quarter + 1)]
    assert sizes == [quarter - 1, *[quarter] * 6, 1000]
    assert [len(data) for _, _, data in contents.open(content.sha256)] == [MAX_CHUNK] * 2 + [1000]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("offset", [-1, len(DATA) + 1, 2**63])
def test_an_offset_beyond_the_end_is_refused(tmp_path: Path, in_file: bool, offset: int) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=in_file)
    with pytest.raises(TransferError, match=f"of a content of {len(DATA)} bytes") as refusal:
        contents.open(content.sha256, offset)
    assert refusal.value.code == "chunk-order"


def test_nothing_is_a_content_too() -> None:
    contents = Contents()
    assert list(contents.open(contents.put_bytes(b"").sha256)) == []


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 64])
def test_what_was_never_offered_is_refused(sha256: str) -> None:
    with pytest.raises(TransferError, match="nothing of this address") as refusal:
        Contents().open(sha256)
    assert refusal.value.code == "no-such-content"


def test_old_models_are_forgotten_and_running_downloads_end_well(tmp_path: Path) -> None:
    contents = Contents()
    file = stored(contents, tmp_path, in_file=True)
    old, new = contents.put_bytes(b"old"), contents.put_bytes(b"new")
    running = contents.open(old.sha256)
    contents.retain({new.sha256})
    with pytest.raises(TransferError, match="nothing of this address"):
        contents.open(old.sha256)
    assert checked(running, 0) == b"old"
    assert checked(contents.open(new.sha256), 0) == b"new"
    assert checked(contents.open(file.sha256), 0) == DATA  # files cost no memory: they stay
    contents.forget(file.sha256)
    with pytest.raises(TransferError, match="nothing of this address"):
        contents.open(file.sha256)


def test_a_file_is_read_once_for_each_state(tmp_path: Path) -> None:
    contents, path = Contents(), tmp_path / "model"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    content = contents.put_file(path)
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))  # size and time say that nothing changed: it is not read again
    assert contents.put_file(path) is content
    os.utime(path, ns=(2, 2))
    assert contents.put_file(path).sha256 == hashlib.sha256(b"other").hexdigest()


def test_a_forgotten_file_may_be_offered_again(tmp_path: Path) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=True)
    contents.forget(content.sha256)
    assert contents.put_file(tmp_path / "backbone.bin") == content
    assert checked(contents.open(content.sha256), 0) == DATA


def test_a_file_that_was_changed_or_removed_is_no_longer_offered(tmp_path: Path) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=True)
    path = tmp_path / "backbone.bin"
    path.write_bytes(DATA + b"more")
    with pytest.raises(TransferError, match="changed since it was offered"):
        contents.open(content.sha256)
    path.unlink()
    with pytest.raises(TransferError, match="No such file") as refusal:
        contents.open(content.sha256)
    assert refusal.value.code == "no-such-content"
    with pytest.raises(TransferError, match="No such file"):
        contents.put_file(path)


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    contents = Contents()
    content = stored(contents, tmp_path, in_file=True)
    pieces = contents.open(content.sha256)
    next(pieces)
    os.truncate(tmp_path / "backbone.bin", MAX_CHUNK + 5)
    with pytest.raises(TransferError, match="became shorter"):
        next(pieces)
