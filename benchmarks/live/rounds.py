"""Seconds of a round: ``rounds.py plain|tls CLIENTS ROUNDS [KB]``; one line of JSON.

Every client is a process of its own, as a device is; it downloads the model, and sends an update
of the model's size that it made beforehand of random numbers.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from live.bare import bare_server
from live.processes import started

__all__ = ["measure"]

LIMIT = 120.0
CROWD = Path(__file__).with_name("crowd.py")


def measure(kind: str, clients: int, rounds: int, size: int) -> dict[str, float]:
    """Play rounds in which all clients answer; the first is left out.

    Args:
        kind: ``plain`` or ``tls``; results are durable in both.
        clients: processes.
        rounds: that are timed.
        size: float32 numbers of the model.
    """
    with ExitStack() as stack:
        server = bare_server(
            size=size, rounds=rounds + 1, clients=clients, insecure=kind == "plain"
        )
        bare = stack.enter_context(server)
        for number in range(clients):
            arguments = (CROWD, bare.address, "1", str(LIMIT), f"device{number}")
            stack.enter_context(started(arguments))
        began, busy = bare.await_rounds(1, seconds=LIMIT)
        ended, spent = bare.await_rounds(rounds + 1, seconds=LIMIT)
    return {
        "rounds_per_second": rounds / (ended - began),
        "seconds_per_round": (ended - began) / rounds,
        "cpu_ms": 1000 * (spent - busy) / rounds,
    }


if __name__ == "__main__":
    how, many, times, *rest = sys.argv[1:]
    numbers = int(rest[0]) * 250 if rest else 25_000
    print(json.dumps(measure(how, int(many), int(times), numbers)))
