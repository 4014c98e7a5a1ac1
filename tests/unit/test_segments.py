import errno
import os
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.server.records import Place
from fedloom.server.segments import Bytes, Segments


def make(folder: Path, kept: tuple[Place, ...] = (), size: int = 100) -> Segments:
    return Segments(folder, kept, size=size, spare=0)


def test_payloads_come_back_and_lie_one_after_the_other(tmp_path: Path) -> None:
    segments = make(tmp_path)
    payloads: list[Bytes] = [b"abc", bytearray(b"defg"), memoryview(b"hi")]
    places = segments.append(payloads)
    segments.sync()
    name = "00000001.segment"
    assert places == [Place(name, 0, 3), Place(name, 3, 4), Place(name, 7, 2)]
    assert [segments.read(place) for place in places] == [b"abc", b"defg", b"hi"]
    assert (tmp_path / name).stat().st_size == 100  # allotted at once
    segments.close()


def test_a_view_of_wider_items_counts_its_bytes(tmp_path: Path) -> None:
    segments = make(tmp_path)
    (place,) = segments.append([memoryview(b"abcdefgh").cast("I")])
    assert (place.length, segments.read(place)) == (8, b"abcdefgh")
    segments.close()


def test_no_bytes_lie_nowhere(tmp_path: Path) -> None:
    segments = make(tmp_path)
    (place,) = segments.append([b""])
    segments.sync()
    assert (place, segments.read(place)) == (Place("", 0, 0), b"")
    assert list(tmp_path.iterdir()) == []


def test_a_full_segment_is_followed_by_another_and_a_large_payload_has_its_own(
    tmp_path: Path,
) -> None:
    segments = make(tmp_path)
    places = segments.append([b"a" * 60, b"b" * 40, b"c", b"d" * 250, b"e" * 100])
    assert [(p.segment[:8], p.offset) for p in places] == [
        *(("00000001", 0), ("00000001", 60), ("00000002", 0), ("00000003", 0), ("00000004", 0))
    ]
    assert segments.read(places[3]) == b"d" * 250
    segments.close()


def test_a_file_is_taken_over(tmp_path: Path) -> None:
    segments = make(tmp_path / "segments")
    upload = tmp_path / "upload"
    upload.write_bytes(b"z" * 500)
    places = segments.append([b"a", upload])
    segments.sync()
    assert not upload.exists()
    assert places[1] == Place("00000002.payload", 0, 500)
    assert [segments.read(place) for place in places] == [b"a", b"z" * 500]
    segments.undo([b"a", upload], places)
    assert upload.read_bytes() == b"z" * 500
    segments.close()


def test_opened_again_what_counts_is_there_and_the_rest_is_gone(tmp_path: Path) -> None:
    first = make(tmp_path / "segments")
    upload = tmp_path / "upload"
    upload.write_bytes(b"file")
    places = first.append([b"a" * 90, b"b" * 20, b"c" * 30, upload])
    first.sync()
    first.close()

    second = make(tmp_path / "segments", (places[1],))
    assert [path.name for path in (tmp_path / "segments").iterdir()] == ["00000002.segment"]
    (place,) = second.append([b"d" * 10])  # over what was never acknowledged
    assert place == Place("00000002.segment", 20, 10)
    assert (second.read(places[1]), second.read(place)) == (b"b" * 20, b"d" * 10)
    (other,) = second.append([b"e" * 90])
    assert other.segment == "00000003.segment"
    second.close()


def test_dropped_files_are_gone_and_appending_goes_on(tmp_path: Path) -> None:
    segments = make(tmp_path)
    old = segments.append([b"a" * 90, b"b" * 20])
    segments.drop_except({old[1].segment})
    assert segments.append([b"c"])[0] == Place(old[1].segment, 20, 1)
    segments.drop_except(set())  # the one in use is written over
    assert [path.name for path in tmp_path.iterdir()] == [old[1].segment]
    with pytest.raises(RunError, match=r"00000001\.segment: cannot be read"):
        segments.read(old[0])
    (place,) = segments.append([b"d"])
    segments.sync()
    assert place == Place(old[1].segment, 0, 1)
    assert segments.read(place) == b"d"
    segments.close()


def test_what_is_allotted_grows_with_what_comes(tmp_path: Path) -> None:
    most = 20 << 20
    segments, payload = make(tmp_path, size=most), bytes(6 << 20)
    for _ in range(6):
        segments.append([payload])
    sizes = [path.stat().st_size >> 20 for path in sorted(tmp_path.iterdir())]
    assert sizes == [8, 16, 20]
    segments.drop_except(set())
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [most]
    segments.close()


def test_a_segment_longer_than_others_is_not_kept(tmp_path: Path) -> None:
    segments = make(tmp_path)
    (long,) = segments.append([b"a" * 101])
    segments.drop_except(set())
    assert list(tmp_path.iterdir()) == []
    assert segments.append([b"b"])[0] == Place("00000002.segment", 0, 1)
    assert long.segment == "00000001.segment"
    segments.close()


def test_a_file_shorter_than_its_place_is_an_error(tmp_path: Path) -> None:
    segments = make(tmp_path)
    (place,) = segments.append([b"abc"])
    with pytest.raises(RunError, match=r"00000001\.segment: 98 of 200 bytes at 2"):
        segments.read(Place(place.segment, 2, 200))
    segments.close()


def test_without_room_nothing_is_made(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "segments", (), size=100, spare=1 << 60)
    upload = tmp_path / "upload"
    upload.write_bytes(b"file")
    with pytest.raises(OSError, match="No space left") as caught:
        segments.append([upload, b"abc"])
    assert caught.value.errno == errno.ENOSPC
    assert upload.read_bytes() == b"file"
    assert list((tmp_path / "segments").iterdir()) == []


def test_after_a_failed_write_its_bytes_are_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = make(tmp_path)
    segments.append([b"abc"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(os.strerror(errno.EIO)))
        with pytest.raises(OSError, match="Input/output error"):
            segments.append([b"", b"def"])
    assert segments.append([b"xy"])[0].offset == 3
    segments.close()


def test_after_a_failed_flush_that_segment_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = make(tmp_path)
    segments.append([b"abc"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(os.strerror(errno.EIO)))
        with pytest.raises(OSError, match="Input/output error"):
            segments.sync()
    assert segments.append([b"def"])[0].segment == "00000002.segment"
    segments.sync()
    segments.close()


def failing(text: str) -> object:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, text)

    return fail


def test_where_bytes_cannot_be_allotted_the_length_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    segments = make(tmp_path)
    (place,) = segments.append([b"abc"])
    assert segments.read(place) == b"abc"
    segments.close()


def test_writes_and_reads_that_stop_short_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:2], at))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: read(fd, min(length, 3), at))
    segments = make(tmp_path)
    (place,) = segments.append([b"abcdefg"])
    assert segments.read(place) == b"abcdefg"
    segments.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be used"):
        Segments(tmp_path / "file", ())
