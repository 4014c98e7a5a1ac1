"""One round of very many clients, over mutual TLS: ``many.py CLIENTS MIB``; one line of JSON.

All of them hold a connection from enrolment to the end of the round.
"""

import json
import sys
from pathlib import Path

from live.bare import MIB, bare_server, floats
from live.processes import cpu_seconds, peak_mib, started

__all__ = ["measure"]

LIMIT = 420.0
CROWD = Path(__file__).with_name("crowd.py")


def measure(clients: int, mib: float) -> dict[str, float]:
    """Seconds from the clients' start to the end of the round, and what it cost the server."""
    size = floats(int(mib * MIB))
    with (
        bare_server(size=size, rounds=1, clients=clients, patience=LIMIT) as bare,
        started((CROWD, bare.address, str(clients), str(LIMIT))),
    ):
        idle = peak_mib(bare.process.pid)
        bare.await_rounds(1, seconds=LIMIT)
        text = (bare.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        line = json.loads(text.splitlines()[1])
        return {
            "accepted": line["accepted"],
            "refused": line["refused"],
            "round_seconds": line["seconds"],
            "cpu_seconds": cpu_seconds(bare.process.pid),
            "idle_memory_mib": idle,
            "peak_memory_mib": peak_mib(bare.process.pid),
            "updates_per_second": clients / line["seconds"],
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]))))
