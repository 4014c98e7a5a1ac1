"""Real devices with a real model: ``devices.py waiting|rounds MODEL ROUNDS``; one line of JSON.

``waiting``: the memory of ``fedloom client`` that has joined and read its data, and has no work.
``rounds``: how fast two of them and a server train.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from live.model_server import SAMPLES, TOKENS, WORDS
from live.processes import Process, cpu_seconds, facts_of, memory_mib, peak_mib, started, until

__all__ = ["rounds", "waiting"]

CLIENTS, LIMIT, SETTLE = 2, 240.0, 2.0
SERVER = Path(__file__).with_name("model_server.py")


@dataclass(frozen=True)
class Running:
    """A server and its devices.

    Attributes:
        folder: of everything.
        server: its process.
        devices: theirs.
    """

    folder: Path
    server: Process
    devices: tuple[Process, ...]

    def lines(self) -> int:
        """Lines in the record of rounds; the first is of round 0."""
        path = self.folder / "run" / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0


def waiting(model: Path) -> dict[str, float]:
    """Memory of a device that waits for another one to come."""
    with _running(model, rounds=1, needed=2, devices=1) as running:
        log = running.folder / "device0.log"
        until(
            lambda: b"waiting" in _read(log) or b"training examples" in _read(log),
            "a device",
            seconds=LIMIT,
            every=0.1,
        )
        time.sleep(SETTLE)
        pid = running.devices[0].pid
        return {"memory_mib": memory_mib(pid), "peak_memory_mib": peak_mib(pid)}


def rounds(model: Path, count: int) -> dict[str, float]:
    """Rounds a minute, the first left out: it loads the model on the devices."""
    with _running(model, rounds=count + 1, needed=CLIENTS, devices=CLIENTS) as running:
        pids = [process.pid for process in (running.server, *running.devices)]
        began = until(lambda: running.lines() > 1, "round 1", seconds=LIMIT)
        busy = sum(map(cpu_seconds, pids))
        ended = until(lambda: running.lines() > count + 1, "the last round", seconds=LIMIT)
        spent = sum(map(cpu_seconds, pids))
        peak = max(peak_mib(process.pid) for process in running.devices)
    seconds = (ended - began) / count
    return {
        "rounds_per_second": 1 / seconds,
        "seconds_per_round": seconds,
        "cpu_ms": 1000 * (spent - busy) / count,
        "peak_memory_mib": peak,
    }


@contextmanager
def _running(model: Path, *, rounds: int, needed: int, devices: int) -> Iterator[Running]:
    from contextlib import ExitStack

    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        command = (SERVER, model, folder, str(rounds), str(needed))
        server = stack.enter_context(started(command, log=folder / "server.log"))
        token = facts_of(server)["join"]
        found = []
        for number in range(devices):
            arguments = _device(folder, number, token)
            log = folder / f"device{number}.log"
            found.append(stack.enter_context(started(arguments, log=log)))
        yield Running(folder, server, tuple(found))


def _device(folder: Path, number: int, token: str) -> tuple[str | Path, ...]:
    """The arguments of `fedloom client` with data of its own."""
    draws = np.random.default_rng([7, number])
    rows = [
        {
            "text": " ".join(f"w{word}" for word in draws.integers(0, WORDS, TOKENS)),
            "label": ("no", "yes")[int(draws.integers(2))],
            "split": "train",
        }
        for _ in range(SAMPLES)
    ]
    data = folder / f"device{number}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--threads", "1", "--device", "cpu", "--cache-gb", "0")
    where = ("--data", data, "--directory", folder / f"device{number}", "--name", f"d{number}")
    return ("-m", "fedloom", "client", "--join", token, *where, *options)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    done = waiting(Path(where)) if what == "waiting" else rounds(Path(where), int(rest[0]))
    print(json.dumps(done))
