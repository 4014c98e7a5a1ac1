import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from fedloom.client.contents import Contents
from fedloom.core.errors import TransferError
from fedloom.protos.federation_pb2 import Chunk

DATA = bytes(range(256)) * 10
SHA = hashlib.sha256(DATA).hexdigest()


class Giver:
    """Hands out `DATA` in chunks of 100 bytes, at most `most` of them a time."""

    def __init__(self, most: int = 1000) -> None:
        self.most, self.offsets = most, list[int]()

    def __call__(self, sha256: str, offset: int) -> Iterator[Chunk]:
        self.offsets.append(offset)
        for start in range(offset, len(DATA), 100)[: self.most]:
            part = DATA[start : start + 100]
            yield Chunk(offset=start, crc32=crc32(part), data=part)


def test_what_is_here_is_not_asked_for(tmp_path: Path) -> None:
    giver, contents = Giver(), Contents(tmp_path)
    assert not contents.has(SHA, len(DATA))
    first = contents.fetch(SHA, len(DATA), giver)
    assert contents.fetch(SHA, len(DATA), giver) == first
    assert first == tmp_path / "blobs" / SHA
    assert first.read_bytes() == DATA
    assert giver.offsets == [0]
    assert contents.has(SHA, len(DATA))


def test_a_cut_download_goes_on_where_it_was(tmp_path: Path) -> None:
    giver = Giver(most=7)
    for have in (700, 1400, 2100):
        with pytest.raises(TransferError, match=f"{have:,} of 2,560 bytes came") as caught:
            Contents(tmp_path).fetch(SHA, len(DATA), giver)
        assert caught.value.code == "too-short"
    Contents(tmp_path).fetch(SHA, len(DATA), giver)
    assert giver.offsets == [0, 700, 1400, 2100]


def test_a_part_that_is_not_of_this_content_starts_again(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    (tmp_path / "blobs" / f"{SHA}.partial").write_bytes(b"\0" * 500)
    with pytest.raises(TransferError, match="it is fetched again"):
        contents.fetch(SHA, len(DATA), Giver())
    assert contents.fetch(SHA, len(DATA), Giver()).read_bytes() == DATA


def test_a_part_that_is_too_long_starts_again(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / f"{SHA}.partial").write_bytes(b"\0" * 5000)
    giver = Giver()
    assert Contents(tmp_path).fetch(SHA, len(DATA), giver).read_bytes() == DATA
    assert giver.offsets == [0]


def test_an_empty_content(tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    giver = Giver()
    assert Contents(tmp_path).fetch(empty, 0, giver).read_bytes() == b""
    assert giver.offsets == []


@pytest.mark.parametrize("address", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "g" * 64])
def test_an_address_is_a_sha256(address: str, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="not a SHA-256"):
        Contents(tmp_path).fetch(address, 1, Giver())


def test_a_full_disk_is_said_and_tried_again(tmp_path: Path) -> None:
    contents = Contents(tmp_path)

    def full(sha256: str, offset: int) -> Iterator[Chunk]:
        raise OSError(28, "No space left on device")
        yield Chunk()

    with pytest.raises(TransferError, match="No space left on device") as caught:
        contents.fetch(SHA, len(DATA), full)
    assert (caught.value.code, caught.value.retry_after) == ("disk-full", 30.0)


def filled(contents: Contents, texts: list[bytes]) -> list[str]:
    names = []
    for age, text in enumerate(texts):
        name = hashlib.sha256(text).hexdigest()
        contents.path(name).write_bytes(text)
        os.utime(contents.path(name), (age, age))
        names.append(name)
    return names


def test_the_oldest_are_deleted_first(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    a, b, c, d = filled(contents, [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 10])
    # 30 bytes are not to be kept, 15 may stay: two of 10 must go, the oldest that may
    assert contents.clean({a}, limit=15) == 20
    assert [contents.path(n).exists() for n in (a, b, c, d)] == [True, False, False, True]


def test_parts_of_what_is_kept_stay(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    kept, other = "a" * 64, "b" * 64
    for name in (kept, other):
        (tmp_path / "blobs" / f"{name}.partial").write_bytes(b"part")
    assert contents.clean({kept}) == 4
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [f"{kept}.partial"]


def test_contents_under_names_of_their_own(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    a, b = filled(contents, [b"config", b"weights"])
    folder = contents.arrange("model", {"config.json": a, "model.safetensors": b})
    assert (folder / "config.json").read_bytes() == b"config"
    assert contents.arrange("model", {"config.json": a, "model.safetensors": b}) == folder
    (folder / "config.json").unlink()
    contents.arrange("model", {"config.json": a, "model.safetensors": b})
    assert (folder / "config.json").read_bytes() == b"config"


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    contents = Contents(tmp_path)
    (a,) = filled(contents, [b"config"])
    assert (contents.arrange("model", {"config.json": a}) / "config.json").read_bytes() == b"config"
