"""A real server of a job without a model, so that it starts at once: a vector of zeros is trained.

Run as a program: ``bare_server.py FOLDER SETTINGS`` (JSON: ``size`` and what `job_from` takes).
It says where it can be reached in one line of JSON, with a join token, and how it ended.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.security.floor import only_tls13

only_tls13()

from loopback import loopback_job  # noqa: E402

from fedloom.core.layout import Layout, TensorSpec  # noqa: E402
from fedloom.core.types import Params  # noqa: E402
from fedloom.results.observe import RoundLine, RunInfo, Summary  # noqa: E402
from fedloom.results.rundir import RunDirectory  # noqa: E402
from fedloom.security.tokens import JoinToken  # noqa: E402
from fedloom.server.plan import Plan  # noqa: E402
from fedloom.server.serve import Open, serve  # noqa: E402


class Silent:
    """An observer that says what went wrong only."""

    def started(self, info: RunInfo) -> None: ...

    def round_done(self, line: RoundLine) -> None: ...

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finished(self, summary: Summary) -> None: ...


def plan_of(folder: Path, settings: dict[str, Any]) -> Plan:
    size = settings.pop("size", 1000)
    job = loopback_job(folder, settings, name="bare")
    layout = Layout((TensorSpec("w", (size,), block="layer.0"),))
    return Plan(job, Params(layout, np.zeros(size, dtype=np.float32)))


def main(folder: Path, settings: dict[str, Any]) -> None:
    plan = plan_of(folder, settings)

    def opened(where: Open) -> None:
        token = ""
        if where.enrol_port:
            id, secret = where.federation.register.tokens.create(uses=100_000, ttl_seconds=3600)
            pin = where.federation.authority.pin
            token = str(JoinToken(where.address, where.enrol_port, id, secret, pin))
        facts = {"port": where.port, "enrol_port": where.enrol_port, "token": token}
        print(json.dumps(facts), flush=True)

    summary = serve(
        plan,
        lambda: RunDirectory.create(plan.job, resume=True),
        Silent(),
        opened=opened,
    )
    print(json.dumps({"rounds": summary.rounds, "interrupted": summary.interrupted}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
