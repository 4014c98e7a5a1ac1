"""A real server of a job without a model, as the tests start it, in a process of its own."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.codecs.frame import OVERHEAD
from live.processes import Process, cpu_seconds, facts_of, started, until
from running import ROOT

__all__ = ["MIB", "Bare", "bare_server", "floats"]

MIB = 1 << 20
_PROGRAM = ROOT / "tests" / "bare_server.py"


@dataclass(frozen=True)
class Bare:
    """A server that runs.

    Attributes:
        process: it.
        folder: its state and run folder.
        port: where clients work.
        token: for any number of clients; empty without TLS.
    """

    process: Process
    folder: Path
    port: int
    token: str

    @property
    def address(self) -> str:
        """What `fedloom load` is told."""
        return self.token or f"127.0.0.1:{self.port}"

    def rounds(self) -> int:
        """Rounds whose line is written."""
        path = self.folder / "run" / "metrics.jsonl"
        return max(path.read_bytes().count(b"\n") - 1, 0) if path.is_file() else 0

    def await_rounds(self, count: int, *, seconds: float) -> tuple[float, float]:
        """Clock, and processor seconds of the server, when so many rounds are done."""
        when = until(lambda: self.rounds() >= count, f"round {count}", seconds=seconds)
        return when, cpu_seconds(self.process.pid)


@contextmanager
def bare_server(*, size: int, rounds: int, clients: int, **server: Any) -> Iterator[Bare]:
    """A server whose model has `size` numbers; rounds of all of `clients`.

    Args:
        size: numbers of the model.
        rounds: how many.
        clients: of each round; it begins when they are there.
        server: what else the ``[server]`` table says.
    """
    settings = {
        "size": size,
        "rounds": rounds,
        "clients_per_round": clients,
        "server": {"min_clients": clients, **server},
    }
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        arguments = (_PROGRAM, folder, json.dumps(settings))
        with started(arguments, log=folder / "errors.log") as process:
            facts = facts_of(process)
            yield Bare(process, folder, facts["port"], facts["token"])


def floats(payload: int) -> int:
    """Numbers of a model whose float32 updates are payloads of so many bytes."""
    return (payload - OVERHEAD) // 4
