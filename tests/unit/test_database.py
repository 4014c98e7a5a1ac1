import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedloom.core.errors import RunError
from fedloom.server.database import Database
from fedloom.server.tokens import bump


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "state", exclusive=True)
    yield opened
    opened.close()


def put(database: Database, name: str, value: int) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO counters VALUES (?, ?)", (name, value))


def counters(database: Database) -> list[tuple[str, int]]:
    return database.rows("SELECT name, value FROM counters ORDER BY name")


def test_what_is_written_is_there_after_opening_again(tmp_path: Path) -> None:
    first = Database.open(tmp_path, exclusive=True)
    put(first, "a", 1)
    first.close()

    second = Database.open(tmp_path, exclusive=True)
    assert counters(second) == [("a", 1)]
    second.close()


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO counters VALUES ('a', 1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert counters(database) == []
    put(database, "b", 2)
    assert counters(database) == [("b", 2)]


def test_the_settings_are_those_that_keep_what_is_acknowledged(database: Database) -> None:
    def pragma(connection: sqlite3.Connection, name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    with database.writing(durable=False) as connection:
        assert pragma(connection, "synchronous") == 1  # NORMAL
    with database.writing() as connection:
        assert pragma(connection, "synchronous") == 2  # FULL
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "foreign_keys") == 1


def test_a_second_server_is_kept_out_and_told_by_whom(database: Database) -> None:
    folder = database.folder
    code = (
        "import sys; from pathlib import Path; from fedloom.server.database import Database\n"
        "Database.open(Path(sys.argv[1]), exclusive=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert f"RunError: {folder}: another server (pid {os.getpid()}) works here" in done.stderr
    with pytest.raises(RunError, match=rf"another server \(pid {os.getpid()}\)"):
        Database.open(folder, exclusive=True)


def test_the_folder_is_free_when_the_server_is_gone(tmp_path: Path) -> None:
    for _ in range(2):
        Database.open(tmp_path, exclusive=True).close()


def test_a_command_may_work_beside_the_server(database: Database) -> None:
    beside = Database.open(database.folder, exclusive=False)
    put(beside, "a", 1)
    put(database, "b", 2)
    assert counters(beside) == counters(database) == [("a", 1), ("b", 2)]
    beside.close()


def test_a_command_makes_no_federation(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no federation's state is here"):
        Database.open(tmp_path / "none", exclusive=False)
    assert not (tmp_path / "none").exists()


def test_the_revision_is_seen_by_everyone(database: Database) -> None:
    beside = Database.open(database.folder, exclusive=False)
    assert database.revision() == beside.revision() == 0
    put(database, "a", 1)  # decides nothing
    assert database.revision() == beside.revision() == 0
    for by in (beside, database):
        before = database.revision()
        with by.writing() as connection:
            assert bump(connection) == before + 1
        assert database.revision() == beside.revision() == before + 1
    beside.close()


def test_another_version_of_the_tables_is_refused(tmp_path: Path) -> None:
    database = Database.open(tmp_path, exclusive=True)
    with database.writing() as connection:
        connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RunError, match=r"state\.sqlite: .*tables 99, here 3"):
        Database.open(tmp_path, exclusive=True)


def test_a_file_that_is_no_database_is_refused_and_the_folder_let_go(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_text("not a database\n" * 100)
    for _ in range(2):
        with pytest.raises(RunError, match="cannot be used: file is not a database"):
            Database.open(tmp_path, exclusive=True)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(RunError, match="state: cannot be used"):
        Database.open(tmp_path / "state", exclusive=True)


def test_others_may_not_read_it(database: Database) -> None:
    assert (database.folder.stat().st_mode & 0o777) == 0o700
    assert ((database.folder / "state.sqlite").stat().st_mode & 0o777) == 0o600


def test_many_threads_read_and_write_at_once(database: Database) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                with database.writing(durable=False) as connection:
                    connection.execute("INSERT INTO counters VALUES (?, ?)", (f"{number}:{i}", i))
                database.rows("SELECT count(*) FROM counters")
                database.revision()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert database.rows("SELECT count(*), sum(value) FROM counters") == [(120, 6 * 190)]


def test_a_read_does_not_wait_for_a_write(database: Database) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO counters VALUES ('a', 1)")
        found: list[object] = []
        reader = threading.Thread(target=lambda: found.extend([counters(database), 1]))
        reader.start()
        reader.join(timeout=30)
        assert found == [[], 1]


KILLED_AFTER_A_COMMIT = """
import os, signal, sys
from pathlib import Path
from fedloom.server.database import Database
database = Database.open(Path(sys.argv[1]), exclusive=True)
with database.writing() as connection:
    connection.execute("UPDATE control SET job = 'committed'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_opening_it_again_does_not_drop_the_locks_of_who_has_it_open(tmp_path: Path) -> None:
    """POSIX: a process that closes any handle of a file loses all its locks on it, SQLite's too.

    Another process then takes itself for the only one, and removes the log that is still in use;
    what a third one commits is lost.
    """
    folder = tmp_path / "state"
    Database.open(folder, exclusive=True).close()
    beside = Database.open(folder, exclusive=False)
    assert beside.rows("SELECT job FROM control") == [("",)]
    Database.open(folder, exclusive=True).close()
    done = subprocess.run([sys.executable, "-c", KILLED_AFTER_A_COMMIT, str(folder)])
    assert done.returncode == -signal.SIGKILL
    again = Database.open(folder, exclusive=True)
    found = again.rows("SELECT job FROM control")
    again.close()
    beside.close()
    assert found == [("committed",)]
