"""Jobs of servers under test: on the loopback, on free ports, everything in one folder."""

from pathlib import Path
from typing import Any

from fedloom.core.config import merge
from fedloom.core.job import Job, job_from


def loopback_job(folder: Path, settings: dict[str, Any], **defaults: Any) -> Job:
    """A job without data or a real model; `settings` win over `defaults`."""
    base = {
        "data": {"path": ""},
        "backbone": {"task": "causal-lm"},
        "run": {"directory": str(folder / "run")},
        "server": {
            "directory": str(folder / "state"),
            "listen": "127.0.0.1",
            "address": "127.0.0.1",
            "port": 0,
            "enrol_port": 0,
        },
    }
    return job_from(merge({**base, **defaults}, settings))
