from pathlib import Path

from fedloom.results.compare import differences, other_job


def test_equal_tables_do_not_differ() -> None:
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}) == {}


def test_keys_of_either_side_count() -> None:
    assert differences({"a": 1}, {"b": 2}) == {"a": (1, None), "b": (None, 2)}


def test_tables_in_lists_are_numbered() -> None:
    old = {"stages": [{"rounds": 2}, {"rounds": 5}]}
    new = {"stages": [{"rounds": 2}, {"rounds": 6}]}
    assert differences(old, new) == {"stages[1].rounds": (5, 6)}


def test_the_use_of_the_machine_does_not_count() -> None:
    assert differences({"run": {"workers": 1}}, {"run": {"workers": 8}}) == {}


def test_the_sentence_names_the_first_four_and_counts_the_rest() -> None:
    found: dict[str, tuple[object, object]] = {f"k{i}": (i, -i) for i in range(6)}
    text = other_job(Path("runs/x"), found)
    assert "k0 is 0 there and 0 now" in text
    assert "k3 is 3 there and -3 now, and 2 more" in text
    assert "--out" in text
    assert "--resume" in text
