import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.errors import DataError
from fedloom.tuning.tables import Table, array_names, read_table, table_of

ROWS = [{"text": "a b", "label": "x", "n": 1}, {"text": "c", "label": "y", "n": 2}]
CSV = "text,label,n\na b,x,1\nc,y,2\n"


def write(path: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.csv.gz", CSV),
        ("a.CSV", "\ufeff" + CSV),
        ("a.jsonl", jsonl(*ROWS)),
        ("a.jsonl.gz", jsonl(*ROWS) + "\n"),
    ],
)
def test_reads_the_wanted_columns_in_any_text_format(tmp_path: Path, name: str, text: str) -> None:
    table = read_table(write(tmp_path / name, text), ["label", "text"])
    assert table.columns == {"label": ["x", "y"], "text": ["a b", "c"]}
    assert len(table) == 2
    assert table.dropped == 0


def test_csv_lines_count_quoted_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one\ntwo",x\nthree,y\n')
    table = read_table(path, ["text"])
    assert table.columns["text"] == ["one\ntwo", "three"]
    assert table.where(1) == f"{path}, line 4"  # header 1, first row 2-3


@pytest.mark.parametrize("missing", ["", "  ", None, float("nan")])
def test_rows_without_a_needed_value_are_dropped_and_counted(
    tmp_path: Path, missing: object
) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(ROWS[0], {"text": "d", "label": missing}, ROWS[1]))
    table = read_table(path, ["text", "label"], needed=["label"])
    assert table.columns["text"] == ["a b", "c"]
    assert table.lines.tolist() == [1, 3]
    assert table.dropped == 1


def test_a_key_that_only_some_json_rows_have_is_null_in_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl({"text": "a"}, {"text": "b", "label": "x"}))
    assert read_table(path, ["label"]).columns["label"] == [None, "x"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", r"a\.txt: unknown format '\.txt'; known: \.csv, \.csv\.gz, \.jsonl"),
        ("a", "x", r"unknown format '\(no suffix\)'"),
        ("a.csv", "", r"no column 'text'; columns there: none"),
        ("a.csv", "texts,label\na,b\n", r"no column 'text'; columns there: texts, label; did you"),
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv, line 3: 1 values, but the header has 2"),
        ("a.csv", 'text,label\n"a"b,c\n', r"a\.csv, line 2: not CSV: "),
        ("a.csv", "text,label\n", r"a\.csv: no rows left$"),
        ("a.csv", "text,label\na,\n", r"no rows left: every label is null or empty"),
        ("a.csv", b"text,label\n\xff,b\n", r"a\.csv: not UTF-8 text: invalid start byte"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', r"line 2: not JSON: .* at column 9"),
        ("a.jsonl", "[1]\n", r"line 1: expected an object of columns, found list"),
        ("a.jsonl", jsonl({"Text": "a", "label": 1}), r"columns there: Text, label; did you mean"),
        ("a.jsonl", "", r"a\.jsonl: no rows left$"),
        ("a.npz", "not a zip", r"not a plain NPZ file: "),
        ("a.npz", "PK\x03\x04broken", r"damaged or not a \.npz file"),
    ],
)
def test_a_bad_file_is_explained(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(DataError, match=message):
        read_table(path, ["text", "label"], needed=["label"])


def test_a_missing_file_and_a_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv", ["text"])
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match=r"b\.csv: cannot be read: Is a directory"):
        read_table(tmp_path / "b.csv", ["text"])


def test_damaged_gzip_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", CSV)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"damaged or not a \.csv\.gz file"):
        read_table(path, ["text"])
    path.write_bytes(b"plain")
    with pytest.raises(DataError, match=r"damaged or not a \.csv\.gz file: Not a gzipped file"):
        read_table(path, ["text"])


def test_npz_arrays_are_columns(tmp_path: Path) -> None:
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    np.savez(tmp_path / "a.npz", pixels=pixels, label=np.array([1, 0]))
    table = read_table(tmp_path / "a.npz", ["pixels", "label"], needed=["label"])
    np.testing.assert_array_equal(table.columns["pixels"], pixels)
    assert array_names(tmp_path / "a.npz") == ("pixels", "label")


def test_npz_label_gaps_are_dropped_with_their_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.array([1.0, np.nan, 0.0]))
    table = read_table(tmp_path / "a.npz", ["x", "y"], needed=["y"])
    assert np.asarray(table.columns["x"]).tolist() == [0, 2]
    assert table.dropped == 1


def test_npz_with_python_objects_or_unequal_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"not a plain NPZ file: Object arrays cannot be loaded"):
        read_table(tmp_path / "a.npz", ["x"])
    np.savez(tmp_path / "b.npz", x=np.arange(3), y=np.arange(2))
    with pytest.raises(DataError, match=r"columns of different length \(x: 3, y: 2\)"):
        read_table(tmp_path / "b.npz", ["x", "y"])


def test_array_names_of_what_is_no_npz_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(2))
    assert array_names(tmp_path / "a.npy") == ()
    assert array_names(tmp_path / "none.npz") == ()


class Frame:
    """What a data frame looks like from outside."""

    columns = ("text", "label")

    def __getitem__(self, name: str) -> list[object]:
        return [row[name] for row in ROWS]


def lazy_rows() -> Iterator[dict[str, object]]:
    yield from ROWS


@pytest.mark.parametrize(
    "data",
    [ROWS, lazy_rows(), lazy_rows, Frame(), {"text": ["a b", "c"], "label": ["x", "y"]}],
    ids=["list", "iterator", "function", "frame", "columns"],
)
def test_python_data_of_every_form(data: object) -> None:
    table = table_of(data, ["text", "label"], needed=["label"])
    assert table.columns == {"text": ["a b", "c"], "label": ["x", "y"]}
    assert table.where(0) == "data, line 1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"data: int: expected rows \(mappings\), columns, or a function"),
        ("abc", r"data: str: expected rows"),
        ([1], r"data, line 1: expected an object of columns, found int"),
        ([], r"data: no rows left"),
        ({"texts": []}, r"data: no column 'text'; columns there: texts; did you mean 'texts'"),
        (Frame(), r"data: no column 'n'; columns there: text, label"),
        ({"text": ["a"], "n": []}, r"columns of different length \(text: 1, n: 0\)"),
    ],
)
def test_python_data_of_another_form_are_explained(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table_of(data, ["text", "n"])


def test_missing_value_marks_of_data_frames_are_null() -> None:
    na = type("NAType", (), {})()
    assert (
        table_of({"label": ["x", na, np.float32("nan")]}, ["label"], needed=["label"]).dropped == 2
    )


@pytest.fixture
def write_parquet() -> Callable[[Path], None]:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    return lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path)


def test_parquet(tmp_path: Path, write_parquet: Callable[[Path], None]) -> None:
    write_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", ["n", "text"])
    assert table.columns == {"n": [1, 2], "text": ["a b", "c"]}
    with pytest.raises(DataError, match=r"no column 'm'; columns there: text, label, n"):
        read_table(tmp_path / "a.parquet", ["m"])
    with pytest.raises(DataError, match=r"bad\.parquet: not a Parquet file: "):
        read_table(write(tmp_path / "bad.parquet", "x" * 20), ["m"])


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is here")
def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", "PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'fedloom\[parquet\]'"):
        read_table(path, ["text"])


def test_a_table_says_where_a_row_stands() -> None:
    assert Table("f.csv", {}, np.array([7])).where(0) == "f.csv, line 7"
