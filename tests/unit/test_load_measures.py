import io
import re

import pytest
from rich.console import Console

from fedloom.core.errors import TransferError
from fedloom.load_measures import Measured, Series


def text_of(measured: Measured) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(measured.table())
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_rates_and_percentiles() -> None:
    measured = Measured()
    # 101 calls of 1 to 101 ms, 101 MiB in 2 s: 50.5 calls and MiB a second. The median is 51 ms;
    # the 90th and 99th percentile of 101 values are the 91st and the 100th.
    seconds = [(n + 1) / 1000 for n in range(101)]
    measured.series["upload"] = Series(seconds, bytes=101 << 20, began=10.0, ended=12.0)
    row = next(line for line in text_of(measured).splitlines() if "upload" in line)
    assert re.findall(r"[\d.]+", row) == ["101", "50.5", "50.5", "51.0", "91.0", "100.0", "101.0"]


def test_a_call_is_counted_once_it_is_done() -> None:
    measured = Measured()
    for _ in range(3):
        with measured.call("upload", 5):
            pass
    series = measured.series["upload"]
    assert (len(series.seconds), series.bytes) == (3, 15)
    assert series.began <= series.ended
    assert "refusals" not in text_of(measured)


def test_refusals_are_counted_by_reason_and_raised() -> None:
    measured = Measured()
    for code in ("busy", "busy", "digest"):
        with pytest.raises(TransferError), measured.call("upload"):
            raise TransferError("no", code=code)
    assert measured.refusals == {("upload", "busy"): 2, ("upload", "digest"): 1}
    assert not measured.series
    rows = [line.split() for line in text_of(measured).splitlines() if "upload" in line]
    assert [row[3:6:2] for row in rows] == [["busy", "2"], ["digest", "1"]]
