"""A server and devices as processes of their own, over mutual TLS on this machine."""

import gzip
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_forks import Process, command_environment, start
from safetensors.numpy import load_file
from small_jobs import write_rows, write_toml

from fedloom import simulate
from fedloom.operating import new_token
from fedloom.progress import Quiet
from fedloom.server.database import Database
from fedloom.server.failpoints import VARIABLE
from fedloom.server.ledger import Ledger
from fedloom.simulation.held import SLOT

__all__ = ["Fleet", "era_rows", "free_ports", "table_of", "tensors"]

FIXTURE = Path(__file__).parent / "fixtures" / "text_era.jsonl.gz"
LONGEST = 90.0
"""Seconds that anything may take."""


def era_rows(clients: int) -> list[dict[str, Any]]:
    """Paragraphs of the first presidents' addresses, labelled by era, with those of the test."""
    with gzip.open(FIXTURE, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    trained = [row for row in rows if row["split"] == "train"]
    eras = defaultdict[str, list[str]](list)  # most presidents know one era
    for client, label in sorted({(row["client"], row["label"]) for row in trained}):
        eras[label].append(client)
    turns = zip(*eras.values(), strict=False)  # so that the first two are of two eras
    names = list(dict.fromkeys(name for turn in turns for name in turn))[:clients]
    kept = [row for row in rows if row["client"] in names]
    known = {row["label"] for row in kept if row["split"] == "train"}
    assert len(names) == clients
    assert len(known) > 1  # with one class there is nothing to learn
    return [row for row in kept if row["label"] in known]


def table_of(backbone: Path | str, clients: int, **changes: Any) -> dict[str, Any]:
    """A job for them; the ports are free ones, and stay the same when the server starts again."""
    port, enrol_port = free_ports()
    return {
        "name": "live",
        "partition": "natural",
        "backbone": {"name": str(backbone), "max_tokens": 32, "head_init": "normal"},
        "data": {
            "path": "all.jsonl",
            "client": "client",
            "split": "split",
            "max_examples": 12,
            "max_test": 40,
        },
        "adapter": {"name": "lora", "rank": 4},
        "run": {"workers": 1, "clients_at_once": 1, "cache_gb": 0.0, "cache_disk_gb": 0.0},
        "server": {
            "listen": "127.0.0.1",
            "address": "127.0.0.1",
            "port": port,
            "enrol_port": enrol_port,
            "min_clients": clients,
            "patience": 600.0,  # who is late because this machine is busy is waited for
        },
        **changes,
    }


def tensors(run: Path) -> dict[str, bytes]:
    """The last state's, but for what only a simulator notes."""
    path = sorted((run / "checkpoints").glob("round-*.safetensors"))[-1]
    found = load_file(path)
    return {name: a.tobytes() for name, a in found.items() if name != f"slot/{SLOT}"}


def free_ports() -> list[int]:
    """Two ports below those that the system gives to whoever dials out."""
    draw, found = random.SystemRandom(), list[int]()
    while len(found) < 2:
        port = draw.randrange(15_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and port not in found:
                found.append(port)
    return found


@dataclass(eq=False)
class Fleet:
    """A folder with a job, its server, and a device for every client.

    Attributes:
        folder: where everything is.
        clients: names, as in the data.
    """

    folder: Path
    clients: Sequence[str]
    server: Process | None = None
    devices: dict[str, Process] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(folder: Path, table: dict[str, Any], rows: list[dict[str, Any]]) -> "Fleet":
        """Write the job, the data, and each client's part of them."""
        clients = sorted({row["client"] for row in rows if row["split"] == "train"})
        write_toml(folder / "job.toml", table)
        write_rows(folder / "all.jsonl", rows)
        for number, client in enumerate(clients):
            own = [row for row in rows if row["client"] == client and row["split"] == "train"]
            write_rows(folder / f"own{number}.jsonl", own)
        return Fleet(folder, clients)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.server, *self.devices.values()):
            if process is not None:
                process.kill()
                process.wait(30)
                if process.stdout is not None:
                    process.stdout.close()

    @property
    def state(self) -> Path:
        """The server's state folder."""
        return self.folder / "federation"

    def serve(self, *flags: str, failpoint: str = "") -> None:
        """Start the server, until its ports are open."""
        if self.server is not None and self.server.stdout is not None:
            self.server.stdout.close()
        with (self.folder / "server.err").open("ab") as errors:
            self.server = start(
                ["server", "job.toml", "--out", "live", "--json", *flags],
                self.folder,
                variables={VARIABLE: failpoint},
                stderr=errors,
            )
        assert self.server.stdout is not None
        readable, _, _ = select.select([self.server.stdout], [], [], LONGEST)
        told = self.server.stdout.readline() if readable else ""
        while '"event": "note"' in told:
            told = self.server.stdout.readline()
        assert '"open"' in told, (told, (self.folder / "server.err").read_text())

    def join(self, client: str, *more: str, path: Path | None = None) -> None:
        """Start a device, or start it again: the same command.

        Args:
            client: its name.
            more: flags.
            path: a folder of modules for a Python of its own; None for one like the others.
        """
        number = self.clients.index(client)
        if client not in self._tokens:
            self._tokens[client] = new_token(self.state, name=client, uses=1, seconds=3600.0)
        flags = ["--join", self._tokens[client], "--data", f"own{number}.jsonl"]
        flags += ["--directory", f"device{number}", "--threads", "1", *more]
        words = ["client", *flags]
        with (self.folder / f"device{number}.log").open("ab") as log:
            if path is None:
                self.devices[client] = start(words, self.folder, stdout=log, stderr=log)
                return
            environment = command_environment()  # a Python of its own: nothing is imported yet
            environment["PYTHONPATH"] = os.pathsep.join((str(path), environment["PYTHONPATH"]))
            command = [sys.executable, "-m", "fedloom", *words]
            self.devices[client] = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, text=True
            )

    def begin(self, *, failpoint: str = "") -> None:
        """Start the server, and a device for every client."""
        self.serve(failpoint=failpoint)
        for client in self.clients:
            self.join(client)

    def finish(self) -> None:
        """The server ends well, and so does everybody."""
        assert self.ended() == 0, self.logs()
        assert set(self.gone()) == {0}

    def play(self, *failpoints: str) -> None:
        """Begin and finish; on the way the server dies at one failpoint after the other."""
        first, *others = (*failpoints, "")
        self.begin(failpoint=first)
        for failpoint in others:
            assert self.ended() == -signal.SIGKILL, self.logs()
            self.serve(failpoint=failpoint)
        self.finish()

    def under_way(self) -> int:
        """The round that is open on the disk of a server that is gone; 0 for none."""
        database = Database.open(self.state, exclusive=True)
        opened = Ledger(database).current()
        database.close()
        return opened.number if opened and not opened.closed else 0

    def waiting(self) -> list[str]:
        """The clients with a result for which they have no receipt."""
        found = enumerate(self.clients)
        return [c for i, c in found if any((self.folder / f"device{i}/outbox").glob("*.json"))]

    def ended(self) -> int:
        """The exit code of the server, once it has ended."""
        assert self.server is not None
        self.server.communicate(timeout=LONGEST)
        return self.server.wait()

    def told(self, how: signal.Signals) -> int:
        """Tell the server to end; its exit code."""
        assert self.server is not None
        self.server.send_signal(how)
        return self.ended()

    def gone(self) -> list[int]:
        """The exit codes of the devices; those that have not heard that it is over are told."""
        end = time.monotonic() + 1.0
        for device in self.devices.values():
            with suppress(subprocess.TimeoutExpired):
                device.wait(max(0.0, end - time.monotonic()))
        for device in self.devices.values():
            device.terminate()
        return [device.wait(30) for device in self.devices.values()]

    def simulate(self) -> None:
        """The same job in the simulator, in the folder ``simulated``."""
        directory = {"run.directory": self.folder / "simulated"}
        simulate(self.folder / "job.toml", settings=directory, observer=Quiet())

    def compare(self) -> None:
        """Simulate the job: the bits and the lines are the same."""
        self.simulate()
        assert tensors(self.folder / "live") == tensors(self.folder / "simulated")
        assert self.lines() == self.lines("simulated")

    def lines(self, run: str = "live") -> list[dict[str, Any]]:
        """The rounds on the disk, without what depends on the clock or on bytes of the wire."""
        path = self.folder / run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        kept = ("round", "stage", "accepted", "refused", "loss", "metrics", "evaluation")
        found = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [{name: line[name] for name in kept} for line in found]

    def logs(self) -> str:
        """What everybody said, for a message."""
        paths = [self.folder / "server.err", *sorted(self.folder.glob("device*.log"))]
        return "\n".join(f"{p.name}:\n{p.read_text()[-2000:]}" for p in paths if p.exists())
