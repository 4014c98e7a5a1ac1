import numpy as np
import pytest

from fedloom.core.errors import DataError
from fedloom.tuning.labels import class_numbers, classes_of
from fedloom.tuning.tables import Table


def table(*labels: object) -> Table:
    return Table("f.csv", {"label": labels}, np.arange(2, 2 + len(labels)))


def test_whole_numbers_are_sorted_by_value_and_names_as_text() -> None:
    assert classes_of(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert classes_of(["10", "9", "x"]) == ("10", "9", "x")
    assert classes_of(["10", "09"]) == ("09", "10")  # 09 is a name: as a number it would change


def test_classes_are_those_of_the_training_rows() -> None:
    numbers, classes = class_numbers(table("b", "a", "b"), "label", np.array([0, 1]))
    assert classes == ("a", "b")
    assert numbers.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((3, 12, 3), ("3", "12")),
        ((3.0, np.int64(12), np.float32(3)), ("3", "12")),
        ((True, False, True), ("false", "true")),
        (("3", 12, "3"), ("3", "12")),
    ],
)
def test_labels_of_every_kind(values: tuple[object, ...], classes: tuple[str, ...]) -> None:
    assert class_numbers(table(*values), "label", np.arange(3))[1] == classes


@pytest.mark.parametrize("value", [2.5, float("inf"), ["a"]])
def test_a_label_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"f\.csv, line 3: label = .*: expected a name or a whole"):
        class_numbers(table("a", value), "label", np.array([0]))


def test_what_is_missing_is_no_label() -> None:
    numbers, classes = class_numbers(table("b", None, " ", "a"), "label", np.arange(4))
    assert numbers.tolist() == [1, -1, -1, 0]
    assert classes == ("a", "b")
    with pytest.raises(DataError, match="label: no training example has a label"):
        class_numbers(table("b", None), "label", np.array([1]))


def test_a_label_that_training_lacks_is_named_with_its_line() -> None:
    message = r"f\.csv, line 4: label = 'cats', but no training example .* did you mean 'cat'"
    with pytest.raises(DataError, match=message):
        class_numbers(table("cat", "dog", "cats"), "label", np.array([0, 1]))


def test_many_classes_are_counted_and_not_listed() -> None:
    with pytest.raises(DataError, match=r"\(30 labels are known\)$"):
        class_numbers(table(*range(30), "x"), "label", np.arange(30))
