"""A line of a log per event, for a person or for a program."""

import json
import logging
import sys
import time
from typing import TextIO

__all__ = ["JsonLines", "Text", "write_logs"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def write_logs(log: logging.Logger, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send a log to a stream (stderr where none is given), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Text())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class Text(logging.Formatter):
    """``2026-02-01 12:00:00 info     text``."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as a person reads it."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = f"{when} {record.levelname.lower():<8} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonLines(logging.Formatter):
    """One JSON object: time (seconds since 1970), level, text, and what ``extra`` says beside it.

    ``extra={"facts": {...}}`` is laid flat, like ``extra={...}`` itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The event as a program reads it."""
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        facts = extra.pop("facts", {})
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
            **extra,
            **facts,
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
