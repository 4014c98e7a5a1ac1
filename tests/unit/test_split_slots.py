from pathlib import Path

import pytest

from fedloom.server.split_slots import Slots


def test_what_is_kept_stays_while_the_next_is_written(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "values")
    first = slots.write("a", [b"one, ", memoryview(b"in parts")])
    slots.keep("a", first)
    slots.write("a", [b"never kept"])
    second = slots.write("a", [b"two"])  # in place of what was never kept
    assert slots.read("a", first) == b"one, in parts"
    assert slots.read("a", second) == b"two"
    slots.keep("a", second)
    third = slots.write("a", [b"three"])
    assert slots.read("a", second) == b"two"
    assert slots.read("a", third) == b"three"
    assert slots.read("a", first) is None  # its file holds the third
    assert len(list((tmp_path / "values").iterdir())) == 2


def test_another_process_goes_on_beside_what_is_kept(tmp_path: Path) -> None:
    kept = Slots(tmp_path).write("a", [b"one"])
    again = Slots(tmp_path)
    assert again.read("a", kept) == b"one"
    again.keep("a", kept)
    again.write("a", [b"two"])
    assert again.read("a", kept) == b"one"


@pytest.mark.parametrize("damage", [b"", b"on", b"onf", b"eno"])
def test_a_value_that_is_not_whole_is_not_there(tmp_path: Path, damage: bytes) -> None:
    slots = Slots(tmp_path)
    kept = slots.write("a", [b"one"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert slots.read("a", kept) is None


def test_nothing_is_left_of_what_is_dropped(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    kept = slots.write("a", [bytes(1000), b""])
    assert slots.read("a", kept) == bytes(1000)
    slots.drop("a")
    slots.drop("a")
    assert slots.read("a", kept) is None
    assert list(tmp_path.iterdir()) == []
