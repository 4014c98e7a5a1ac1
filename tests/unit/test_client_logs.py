import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from fedloom.client.logs import Rarely, log
from fedloom.core.logs import write_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


def test_a_line_for_a_person() -> None:
    stream = io.StringIO()
    write_logs(log, stream=stream)
    log.warning("round %d: %s", 3, "late", extra={"facts": {"round": 3}})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d warning  round 3: late\n", stream.getvalue()
    )


def test_a_line_for_a_program() -> None:
    stream = io.StringIO()
    write_logs(log, as_json=True, stream=stream)
    log.info("round %d", 3, extra={"facts": {"round": 3, "seq": 9}})
    entry = json.loads(stream.getvalue())
    assert entry.pop("time") > 1e9
    assert entry == {"level": "info", "text": "round 3", "round": 3, "seq": 9}


def test_a_trace_goes_along() -> None:
    stream = io.StringIO()
    write_logs(log, as_json=True, stream=stream)
    log.error("a task is given up", exc_info=ValueError("why"))
    assert "ValueError: why" in json.loads(stream.getvalue())["trace"]


def test_nothing_is_told_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    write_logs(log, stream=first)
    write_logs(log, stream=second)
    log.info("x")
    assert (first.getvalue(), second.getvalue().count("x")) == ("", 1)
    assert log.level == logging.INFO


def test_rarely() -> None:
    now = [0.0]
    rarely = Rarely(every=60.0, clock=lambda: now[0])
    told = []
    for second in range(0, 200, 10):
        now[0] = float(second)
        told += [second] if rarely.is_due() else []
    assert told == [0, 60, 120, 180]
    assert rarely.over() == 190.0
    assert rarely.over() is None


def test_what_comes_and_goes_is_still_told_rarely() -> None:
    now = [0.0]
    rarely = Rarely(every=60.0, clock=lambda: now[0])
    assert rarely.is_due()
    now[0] = 5.0
    assert rarely.over() == 5.0
    now[0] = 6.0
    assert not rarely.is_due()
