from pathlib import Path

from fedloom.client.journal import Journal


def test_beginnings_are_counted_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    assert [Journal(path).begin("a", 1) for _ in range(3)] == [1, 2, 3]
    assert Journal(path).begin("a", 2) == 1  # another attempt
    assert Journal(path).begin("b", 2) == 1  # another task
    Journal(path).end()
    assert Journal(path).begin("b", 2) == 1


def test_a_damaged_note_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text("{")
    assert Journal(path).begin("a", 1) == 1
