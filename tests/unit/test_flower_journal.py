from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from fedloom.core.errors import RunError
from fedloom.flower.journal import Journal


class Open(Protocol):
    def __call__(self, most: int = 10_000, name: str = "j") -> Journal: ...


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the journal of a test; closed at its end."""
    with ExitStack() as stack:

        def open_it(most: int = 10_000, name: str = "j") -> Journal:
            journal = Journal(tmp_path / name, most=most)
            stack.callback(journal.close)
            return journal

        yield open_it


def entries(journal: Journal) -> list[tuple[dict[str, object], bytes]]:
    return [(dict(line), journal.bytes_of(place)) for line, place in journal.entries()]


def test_what_is_written_is_there_again(opened: Open) -> None:
    one = opened()
    one.add({"a": 1}, b"bytes")
    one.add({"b": [2]}, durable=True)
    one.close()

    two = opened()

    assert entries(two) == [({"a": 1}, b"bytes"), ({"b": [2]}, b"")]
    two.add({"c": None}, b"more")
    assert entries(two)[2] == ({"c": None}, b"more")


@pytest.mark.parametrize("cut", [1, 4, 12, 17, 21])
def test_an_entry_that_was_cut_short_is_forgotten(cut: int, opened: Open, tmp_path: Path) -> None:
    one = opened()
    one.add({"a": 1})
    whole = (tmp_path / "j").stat().st_size
    one.add({"b": 2}, b"data")
    one.close()
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data[: len(data) - cut])

    two = opened()

    assert entries(two) == [({"a": 1}, b"")]
    assert (tmp_path / "j").stat().st_size == whole
    two.add({"c": 3})
    assert [line for line, _ in entries(two)] == [{"a": 1}, {"c": 3}]


def test_bytes_that_changed_are_noticed(opened: Open, tmp_path: Path) -> None:
    one = opened()
    one.add({"a": 1}, b"data")
    one.close()
    data = bytearray((tmp_path / "j").read_bytes())
    data[-1] ^= 1
    (tmp_path / "j").write_bytes(data)

    assert entries(opened()) == []


def test_a_journal_that_becomes_too_large_is_deleted(opened: Open, tmp_path: Path) -> None:
    one = opened(100)

    assert one.add({}, bytes(50))
    assert not one.add({}, bytes(50))
    assert not one.add({})
    assert not (tmp_path / "j").exists()


def test_a_disk_that_is_full_ends_the_journal_and_not_the_run(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened()
    one.add({"a": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert not one.add({"b": 2}, durable=True)
    assert not (tmp_path / "j").exists()


def test_one_process_at_a_time(opened: Open) -> None:
    one = opened(100)
    with pytest.raises(RunError, match="another process is at this run"):
        opened(100)
    one.close()
    opened(100)
    with pytest.raises(RunError, match="cannot be written: No such file"):
        opened(name="none/j")
