"""Peak memory of a whole simulation with so many registered clients.

Usage: ``registered.py MODEL_FOLDER REGISTERED COHORT``; prints one JSON line.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedloom.core.job import Job, job_from
from fedloom.results.observe import Observers
from fedloom.simulation.simulator import simulate
from folders import write_tokenizer
from memory import peak_rss_mib

__all__ = ["job_of", "rows"]

TEXTS, WORDS, TOKENS, SAMPLES = 4000, 2000, 32, 16


def rows(texts: int) -> dict[str, list[str]]:
    """So many random texts of `TOKENS` words, with a label out of two."""
    draws = np.random.default_rng(3)
    words = draws.integers(0, WORDS, (texts, TOKENS))
    labels = draws.integers(0, 2, texts)
    return {
        "text": [" ".join(f"w{word}" for word in line) for line in words],
        "label": ["yes" if label else "no" for label in labels],
    }


def job_of(folder: Path, registered: int, cohort: int, runs: Path) -> Job:
    """Two rounds over a partition that draws each client's rows when they are asked for."""
    return job_from(
        {
            "name": f"registered-{registered}",
            "backbone": {"name": str(folder), "pooling": "model", "max_tokens": TOKENS},
            "partition": {"name": "iid", "clients": registered, "examples": SAMPLES},
            "rounds": 2,
            "clients_per_round": cohort,
            "local": {"batch_size": 8, "lr": 0.1},
            "data": {"max_test": 200},
            "run": {"directory": str(runs), "device": "cpu", "cache_gb": 0.0},
        }
    )


def main() -> None:
    """Simulate, and print the peak memory of this process."""
    folder, registered, cohort = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if not (folder / "tokenizer.json").is_file():
        write_tokenizer(folder, WORDS)
    with tempfile.TemporaryDirectory() as runs:
        job = job_of(folder, registered, cohort, Path(runs) / "run")
        run = simulate(job, observer=Observers(()), data=rows(TEXTS))
    rates = [line.clients_per_second for line in run.history if line.round]
    print(json.dumps({"peak_memory_mib": peak_rss_mib(), "clients_per_second": max(rates)}))


if __name__ == "__main__":
    main()
