from pathlib import Path

import pytest

from fedloom.core.durable import sync, write


def test_a_file_is_made_of_the_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, b"longer than what follows")
    write(path, b"short")
    sync(tmp_path)
    assert path.read_bytes() == b"short"


def test_what_cannot_be_written_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        write(tmp_path / "none" / "a", b"")
    with pytest.raises(FileNotFoundError, match="none"):
        sync(tmp_path / "none")
