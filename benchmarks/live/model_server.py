"""``fedloom server`` of a small job with a real model: arguments MODEL STATE ROUNDS NEEDED.

NEEDED clients make a round. A line of JSON with the command by which devices join; it ends with
the rounds.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fedloom.results.observe import Observers
from fedloom.serving import serve

WORDS, TOKENS, SAMPLES = 2000, 32, 16


def job_table(model: Path, state: Path, rounds: int, needed: int) -> dict[str, Any]:
    """LoRA of rank 8 and a classifier over `SAMPLES` sequences of `TOKENS` tokens, batch 8."""
    return {
        "name": "model",
        "backbone": {
            "name": str(model),
            "task": "classify",
            "pooling": "model",
            "max_tokens": TOKENS,
            "dtype": "float32",
        },
        "data": {"classes": ["no", "yes"], "split": "split"},
        "rounds": rounds,
        "clients_per_round": needed,
        "local": {"batch_size": 8, "lr": 0.5},
        "run": {"directory": str(state / "run"), "device": "cpu", "workers": 1, "cache_gb": 0.0},
        "server": {
            "directory": str(state / "state"),
            "listen": "127.0.0.1",
            "address": "127.0.0.1",
            "port": 0,
            "enrol_port": 0,
            "min_clients": needed,
        },
    }


def _opened(line: str) -> None:
    print(json.dumps({"join": line.split("--join ")[1].split()[0]}), flush=True)


def main() -> None:
    """Serve until the rounds are done."""
    model, state, rounds, needed = sys.argv[1:]
    table = job_table(Path(model), Path(state), int(rounds), int(needed))
    serve(table, observer=Observers(()), opened=_opened)


if __name__ == "__main__":
    main()
