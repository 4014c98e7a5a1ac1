import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from fedloom.core.logs import JsonLines, Text, write_logs


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    found = logging.getLogger("fedloom.test-of-logs")
    yield found
    found.handlers.clear()


def test_a_log_goes_to_one_stream_and_nowhere_else(log: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    write_logs(log, stream=first)
    write_logs(log, stream=second)
    log.info("x")
    log.debug("y")
    assert first.getvalue() == ""
    assert second.getvalue().endswith("info     x\n")
    assert not log.propagate


def record(**extra: object) -> logging.LogRecord:
    found = logging.LogRecord("n", logging.WARNING, "f.py", 1, "got %d", (3,), None)
    found.created = 1_700_000_000.25
    vars(found).update(extra)
    return found


def test_an_event_for_a_program() -> None:
    line = JsonLines().format(record(code="norm", facts={"round": 4, "odd": {1}}))
    assert json.loads(line) == {
        "time": 1_700_000_000.25,
        "level": "warning",
        "text": "got 3",
        "code": "norm",
        "round": 4,
        "odd": "{1}",
    }


def test_an_event_for_a_person() -> None:
    assert re.fullmatch(r"2023-11-1\d \d\d:\d\d:20 warning  got 3", Text().format(record()))


def test_an_error_brings_its_trace(log: logging.Logger) -> None:
    for as_json in (True, False):
        stream = io.StringIO()
        write_logs(log, as_json=as_json, stream=stream)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("it failed")
        assert "ValueError: why" in stream.getvalue()
        assert stream.getvalue().count("\n") == 1 or not as_json
