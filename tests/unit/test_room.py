import errno
import sqlite3
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.server.room import is_full


def test_what_the_operating_system_says_of_a_full_disk() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_full(OSError(number, "x"))
    assert not is_full(OSError(errno.EACCES, "x"))
    assert not is_full(ValueError("x"))
    assert not is_full(None)


def fail() -> None:
    try:
        raise OSError(errno.ENOSPC, "x")
    except OSError:
        raise RunError("cannot be written") from None


def test_it_is_found_behind_what_we_made_of_it() -> None:
    with pytest.raises(RunError) as caught:
        fail()
    assert is_full(caught.value)
    assert is_full(RunError("cannot be written: I/O error: No space left (os error 28)"))
    assert not is_full(RunError("I/O error: Permission denied (os error 13)"))


def test_what_sqlite_says_of_it(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO t VALUES (?)", (bytes(100_000),))
    assert is_full(caught.value)
    with pytest.raises(sqlite3.OperationalError) as wrong:
        connection.execute("SELECT nonsense")
    assert not is_full(wrong.value)
    connection.close()
