"""What every device must know of a job: the same JSON for all, fetched by its address."""

import json
from collections.abc import Mapping

from fedloom.core.config import to_table
from fedloom.core.contract import PROTOCOL
from fedloom.server.contents import Content
from fedloom.server.plan import Plan

__all__ = ["manifest"]

_OURS = ("run", "server", "partition")


def manifest(plan: Plan, federation: str, files: Mapping[str, Content]) -> bytes:
    """The manifest of a plan.

    Args:
        plan: the job with its first model.
        federation: its UUID.
        files: the backbone's files by name, as they are offered for download.
    """
    job = {key: value for key, value in to_table(plan.job).items() if key not in _OURS}
    job["data"] = {key: value for key, value in job["data"].items() if key != "path"}
    table = {
        "protocol": PROTOCOL,
        "federation": federation,
        "job": job,
        "cache_gb": plan.job.run.cache_gb,
        "classes": list(plan.classes),
        "layout": plan.start.layout.digest,
        "backbone": {
            "files": [
                {"name": name, "sha256": content.sha256, "size": content.size}
                for name, content in files.items()
            ]
        },
        "weights": plan.split.weights if plan.split else "",
    }
    return json.dumps(table, sort_keys=True).encode()
