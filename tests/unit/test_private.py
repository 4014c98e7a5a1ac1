import os
import stat
from pathlib import Path

import pytest

from fedloom.core.errors import IdentityError
from fedloom.security.private import make_folder, read_private, write_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_its_owners_from_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    sync = os.fsync

    def watch(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode) & 0o077)
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
        write_file(tmp_path / "a" / "b" / "key.pem", b"one")
        write_file(tmp_path / "a" / "b" / "key.pem", b"two")
    finally:
        os.umask(before)
    path = tmp_path / "a" / "b" / "key.pem"
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert read_private(path) == b"two"
    assert modes == [0, 0, 0, 0]  # the file, then its folder, twice
    assert os.listdir(path.parent) == ["key.pem"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    write_file(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["key.pem"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_file(path, b"key")
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=r"others may read it \(mode 0640\).*chmod 600"):
        read_private(path)
