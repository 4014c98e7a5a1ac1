"""Server CPU of an update: ``uploads.py KIND CLIENTS ROUNDS [MIB]``; one line of JSON.

KIND is ``plain`` or ``tls``, with ``-durable`` or without.
"""

import json
import sys
from pathlib import Path

from live.bare import MIB, bare_server, floats
from live.processes import facts_of, peak_mib, started

__all__ = ["LIMIT", "measure"]

LIMIT = 240.0
CROWD = Path(__file__).with_name("crowd.py")


def measure(kind: str, clients: int, rounds: int, mib: float = 1.0) -> dict[str, float]:
    """Play rounds of so many clients and say what an update cost the server.

    The first round, with its connections and handshakes, is left out; check-ins, one download a
    round, the strategy and the checkpoint are in.
    """
    secure, durable = kind.startswith("tls"), kind.endswith("durable")
    size = floats(int(mib * MIB))
    server = {"insecure": not secure, "durable": durable}
    with (
        bare_server(size=size, rounds=rounds + 1, clients=clients, **server) as bare,
        started((CROWD, bare.address, str(clients), str(LIMIT))) as crowd,
    ):
        began, busy = bare.await_rounds(1, seconds=LIMIT)
        ended, spent = bare.await_rounds(rounds + 1, seconds=LIMIT)
        peak = peak_mib(bare.process.pid)
        refusals = facts_of(crowd)["refusals"]
    updates = clients * rounds
    return {
        "updates_per_second": updates / (ended - began),
        "cpu_ms": 1000 * (spent - busy) / updates / mib,
        "peak_memory_mib": peak,
        "refusals": sum(refusals.values()),
    }


if __name__ == "__main__":
    how, many, times, *rest = sys.argv[1:]
    print(json.dumps(measure(how, int(many), int(times), *map(float, rest))))
