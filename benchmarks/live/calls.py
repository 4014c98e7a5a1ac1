"""Server CPU of one call: ``calls.py bare|fedloom plain|tls upload|checkin CLIENTS CALLS [MIB]``.

``bare`` is gRPC with handlers that do nothing (`raw_server`); ``fedloom`` a real server, which has
no work, so that a check-in is answered at once. A line of JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live.bare import bare_server
from live.processes import cpu_seconds, facts_of, peak_mib, started

__all__ = ["measure"]

NOBODY = 1_000_000
HERE = Path(__file__).parent


def measure(
    system: str, security: str, kind: str, clients: int, calls: int, mib: float = 1.0
) -> dict[str, float]:
    """Calls of so many clients, the first of each left out."""
    serving = _bare(security) if system == "bare" else _fedloom(security)
    with serving as (pid, where):
        arguments = (HERE / "caller.py", where, str(clients), kind, str(calls), str(mib))
        with started(arguments) as load:
            facts_of(load)
            busy, began = cpu_seconds(pid), time.perf_counter()
            assert load.stdin is not None
            load.stdin.write("\n")
            load.stdin.flush()
            facts_of(load)
            spent, ended = cpu_seconds(pid), time.perf_counter()
        peak = peak_mib(pid)
    made = clients * calls
    rate = "updates_per_second" if kind == "upload" else "per_second"
    return {
        rate: made / (ended - began),
        "cpu_ms": 1000 * (spent - busy) / made / (mib if kind == "upload" else 1.0),
        "peak_memory_mib": peak,
    }


@contextmanager
def _bare(security: str) -> Iterator[tuple[int, str]]:
    raw = HERE / "raw_server.py"
    with (
        tempfile.TemporaryDirectory() as folder,
        started((raw, folder, security)) as process,
    ):
        port = facts_of(process)["port"]
        host = folder if security == "tls" else "127.0.0.1"
        yield process.pid, f"{host}:{port}"


@contextmanager
def _fedloom(security: str) -> Iterator[tuple[int, str]]:
    with bare_server(size=10, rounds=1, clients=NOBODY, insecure=security == "plain") as bare:
        yield bare.process.pid, bare.address


if __name__ == "__main__":
    what, how, call, many, times, *rest = sys.argv[1:]
    print(json.dumps(measure(what, how, call, int(many), int(times), *map(float, rest))))
