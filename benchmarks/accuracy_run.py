"""One run of the accuracy benchmark.

Usage: ``accuracy_run.py JSON``, with the fields of `accuracy_jobs.Asked`; prints one JSON line: the
curve, with the forward passes and bytes so far, and the last model's accuracy.
"""

import json
import sys
import tempfile
from typing import Any

import fedloom
from accuracy_jobs import METHODS, Asked, settings_of
from fedloom.results.observe import Observers
from fedloom.simulation.simulator import Run

__all__ = ["curve", "simulated"]

BACKWARD = 3.0
"""Forward passes that one pass forward and back is counted as."""


def simulated(asked: Asked, folder: str) -> Run:
    """Run the job."""
    method = METHODS[asked.method]
    settings = settings_of(
        asked.data,
        method,
        **{
            "seed": asked.seed,
            "rounds": asked.rounds,
            "backbone.name": asked.model,
            "data.max_test": asked.max_test,
            "evaluate.every": max(asked.rounds // asked.points, 1),
            "evaluate.split": "test",
            "run.device": asked.device,
            "run.directory": folder,
        },
    )
    return fedloom.simulate(
        method.recipe or None, settings=settings, observer=Observers(()), overwrite=True
    )


def curve(run: Run, spare: float) -> list[dict[str, float]]:
    """The evaluations, with what was spent before each.

    Args:
        run: that has ended.
        spare: forward passes of a client's round that its method does not need.
    """
    forwards, found = 0.0, []
    for line in run.history:
        steps = float(line.metrics.get("forwards", BACKWARD)) - spare
        forwards += line.accepted * steps
        if line.evaluation:
            spent = {
                "round": line.round,
                "forwards": forwards,
                "up": line.total_bytes_up,
                "down": line.total_bytes_down,
            }
            found.append(spent | {k: line.evaluation[k] for k in ("accuracy", "loss")})
    return found


def main() -> None:
    """Run, and print."""
    table: dict[str, Any] = json.loads(sys.argv[1])
    asked = Asked(**table)
    with tempfile.TemporaryDirectory() as folder:
        run = simulated(asked, f"{folder}/run")
        found = curve(run, METHODS[asked.method].spare)
    last = run.summary.after
    result = {**table, "accuracy": last["accuracy"], "loss": last["loss"], "curve": found}
    print(json.dumps(result | {"seconds": run.summary.elapsed}))


if __name__ == "__main__":
    main()
