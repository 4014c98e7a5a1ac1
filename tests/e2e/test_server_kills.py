"""A server is killed wherever it can be: nothing acknowledged is lost, nothing counts twice.

After any sequence of kills the model has the bytes of a run that nobody disturbed, although in
every round a client gives up, another sends a damaged update, and a third cuts its upload.
``FEDLOOM_KILLS=200`` kills at each failpoint the first and a later time, and 200 times at random.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from light_clients import Crowd, frame_of
from safetensors.numpy import load_file
from server_forks import Nursery

from fedloom.server.database import Database
from fedloom.server.failpoints import FAILPOINTS
from fedloom.server.ledger import Ledger
from fedloom.server.segments import Segments

KILLS = int(os.environ.get("FEDLOOM_KILLS", "0"))
CLIENTS = 6
SMALL, LARGE = 600, 1_060_000
"""Numbers in a model; the updates of the larger one arrive in files."""
ROUNDS = 8
LONGEST = 30.0
"""Seconds after which a server that does not get on is ended."""
SETTINGS: dict[str, Any] = {
    "clients_per_round": 5,
    "evaluate": {"every": 1},
    "server": {
        "insecure": True,
        "min_clients": CLIENTS,
        "minimum": 1.0,
        "patience": 0.05,
        "quarantine": 0,
        "evaluate_clients": 2,
    },
}

NOT_HERE = ("enrolment-written", "enrolled", "payload-adopted")
"""Without TLS nobody enrols; small payloads stay in memory."""
ONCE = ("schema-written", "rounds-cleared", "opening-written", "ports-open", "summary-written")
"""Passed once by a process, the first three by the first only, the last by the last."""
SELDOM = ("segment-made", "segment-dropped")
"""Passed by the first process, and where a round's payloads come in files of their own."""
PASSED = [name for name in FAILPOINTS if name not in (*NOT_HERE, *ONCE, *SELDOM)]
BEFORE = {"update-replayed": "receipts-given:2"}
"""What a process must have died of for the next one to get there."""


@dataclass(eq=False)
class Trial:
    """One state folder, its clients, and the processes that serve them."""

    nursery: Nursery
    folder: Path
    crowd: Crowd
    rounds: int
    strategy: str = "fedadam"
    deaths: list[str] = field(default_factory=list)

    def serve(self, failpoint: str = "", seconds: float = 0.0) -> int:
        """Serve until the end, the failpoint, or so many seconds after the ports have opened.

        Returns:
            The exit code.
        """
        errors = self.folder.with_suffix(".err")
        strategy = {"name": self.strategy, "lr": 0.01}
        settings = {**SETTINGS, "size": self.crowd.size, "rounds": self.rounds}
        settings["strategy"] = strategy
        self.nursery.start(self.folder, settings, failpoint, errors)
        code = self._attend(seconds)
        self.deaths.append((failpoint or f"{seconds:.3f} s") if code else "end")
        said = errors.read_text() if errors.exists() else ""
        assert code in (0, -signal.SIGKILL), f"{code} after {self.deaths}: {said}"
        assert not self.crowd.wrong, f"after {self.deaths}: {self.crowd.wrong}"
        return code

    def _attend(self, seconds: float) -> int:
        """Wait until it ends or its time is over, or a client has met with something wrong."""
        until = time.monotonic() + LONGEST
        while (left := until - time.monotonic()) > 0 and not self.crowd.wrong:
            told = self.nursery.said(min(left, 0.5))
            if told and "port" in told:
                self.crowd.connect(told["port"])
                until = time.monotonic() + (seconds or LONGEST)
            elif told and "code" in told:
                return int(told["code"])
        return self.nursery.kill()

    def check(self) -> None:
        """What was acknowledged is on the disk or in the model, with its number and bytes, once."""
        state = self.folder / "state"
        if not (state / "state.sqlite").exists():
            assert not self.crowd.receipts
            return
        database = Database.open(state, exclusive=True)
        ledger = Ledger(database)
        segments = Segments(state / "segments", ledger.places())
        try:
            self._check(ledger, segments)
        finally:
            segments.close()
            database.close()

    def _check(self, ledger: Ledger, segments: Segments) -> None:
        opened, done = ledger.current(), self.done
        number = opened.number if opened else done + 1
        assert number in (done, done + 1), self.deaths
        found = {w.ticket.client: w for w in ledger.written(number)}
        assert len(found) == len(ledger.written(number))
        acknowledged = {c: seq for (r, c), seq in self.crowd.receipts.items() if r == number}
        assert acknowledged.items() <= {c: w.seq for c, w in found.items()}.items(), self.deaths
        for client, written in found.items():
            assert segments.read(written.place) == frame_of(
                int(client[1:]), number, self.crowd.size
            )

    @property
    def done(self) -> int:
        """The round of the newest checkpoint."""
        paths = sorted((self.folder / "run" / "checkpoints").glob("round-*.safetensors"))
        return int(paths[-1].stem.removeprefix("round-")) if paths else 0

    def finish(self) -> None:
        """Go on to the end, where everything is as if nothing had happened."""
        assert self.serve() == 0
        self.check()
        assert self.done == self.rounds
        seqs = list(self.crowd.receipts.values())
        assert len(set(seqs)) == len(seqs)
        database = Database.open(self.folder / "state", exclusive=False)
        results = Ledger(database).counters()["results"]
        database.close()
        whole = undisturbed(self.nursery, self.crowd.size, self.rounds, self.strategy)
        assert outcome(self.folder, self.rounds) == whole, self.deaths
        assert results == sum(accepted for _, accepted, _ in whole[1])

    def go_through(self, failpoints: list[str]) -> None:
        """Die at one after the other, each in a process of its own, then go on to the end."""
        for failpoint in failpoints:
            name = failpoint.partition(":")[0]
            if name in BEFORE:
                assert self.serve(BEFORE[name]) == -signal.SIGKILL
            assert self.serve(failpoint) == -signal.SIGKILL, f"never got to {failpoint}"
            self.check()
        self.finish()


def outcome(folder: Path, rounds: int) -> tuple[dict[str, bytes], list[tuple[int, int, float]]]:
    """The last state's tensors, and what is remembered of clients; of each line its round,
    updates, and size of the step.
    """
    path = folder / "run" / "checkpoints" / f"round-{rounds:06d}.safetensors"
    text = (folder / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [(x["round"], x["accepted"], x["metrics"].get("delta_norm", 0.0)) for x in lines]
    tensors = {name: tensor.tobytes() for name, tensor in load_file(path).items()}
    return {**tensors, **remembered(folder)}, told


def remembered(folder: Path) -> dict[str, bytes]:
    """The newest record of each client, where the strategy remembers any."""
    path = folder / "run" / "remembered" / "stage-0.sqlite"
    if not path.exists():
        return {}
    newest = "SELECT client, max(round), tensors FROM kept GROUP BY client"
    with closing(sqlite3.connect(path)) as file:
        return {f"of {client}": tensors for client, _, tensors in file.execute(newest)}


@cache
def undisturbed(
    nursery: Nursery, size: int, rounds: int, strategy: str
) -> tuple[dict[str, bytes], list[tuple[int, int, float]]]:
    """What comes out where nobody kills anything."""
    with TemporaryDirectory() as folder, Crowd(CLIENTS, size) as crowd:
        trial = Trial(nursery, Path(folder) / "whole", crowd, rounds, strategy)
        trial.folder.mkdir()
        assert trial.serve() == 0
        trial.check()
        whole = outcome(trial.folder, rounds)
    assert [number for number, _, _ in whole[1]] == list(range(rounds + 1))
    return whole


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def trial(nursery: Nursery, tmp_path: Path) -> Iterator[Trial]:
    (tmp_path / "live").mkdir()
    with Crowd(CLIENTS, SMALL) as crowd:
        yield Trial(nursery, tmp_path / "live", crowd, ROUNDS)
        nursery.settle()


def asked(name: str, stream: random.Random) -> str:
    return f"{name}:2" if stream.random() < 0.5 else name


def legs(seed: int, length: int) -> list[list[str]]:
    """All failpoints that every round passes, in a random order, in runs of some."""
    stream = random.Random(seed)
    names = [asked(name, stream) for name in PASSED]
    stream.shuffle(names)
    return [names[i : i + length] for i in range(0, len(names), length)]


@pytest.mark.parametrize("failpoints", legs(1, 5), ids=lambda names: names[0])
def test_killed_at_one_failpoint_after_the_other(failpoints: list[str], trial: Trial) -> None:
    trial.go_through(failpoints)


def test_killed_as_it_begins_and_as_it_ends(trial: Trial) -> None:
    trial.go_through([*(name for name in FAILPOINTS if name in ONCE)])


def test_killed_while_the_first_segment_is_made(trial: Trial) -> None:
    trial.go_through(["segment-made"])


def test_killed_while_large_updates_arrive_in_files(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    with Crowd(CLIENTS, LARGE) as crowd:
        names = ["payload-adopted:2", "payloads-synced", "update-arrived:2", "segment-dropped"]
        Trial(nursery, tmp_path / "live", crowd, 2).go_through(names)


def test_killed_while_a_strategy_remembers_clients(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    names = ["update-arrived:4", "updates-folded:2", "round-played", "line-written", "offers-in"]
    with Crowd(CLIENTS, SMALL) as crowd:
        trial = Trial(nursery, tmp_path / "live", crowd, ROUNDS, strategy="fedpeptao")
        trial.go_through(names)
        nursery.settle()
    assert len(remembered(trial.folder)) == CLIENTS


@pytest.mark.parametrize("seed", range(1 + KILLS // 8))
def test_killed_eight_times_at_random(seed: int, trial: Trial) -> None:
    """At a failpoint or after a time, whatever the server is just doing."""
    stream = random.Random(seed)
    for _ in range(8):
        if stream.random() < 0.5:
            trial.serve(f"{stream.choice(PASSED)}:{stream.randint(1, 4)}")
        else:
            trial.serve(seconds=stream.uniform(0.001, 0.25))
        trial.check()
    trial.finish()


@pytest.mark.parametrize("seed", range(KILLS // 40))
def test_killed_four_times_while_large_updates_arrive(
    seed: int, nursery: Nursery, tmp_path: Path
) -> None:
    stream = random.Random(seed)
    (tmp_path / "live").mkdir()
    with Crowd(CLIENTS, LARGE) as crowd:
        trial = Trial(nursery, tmp_path / "live", crowd, 2)
        for _ in range(4):
            trial.serve(seconds=stream.uniform(0.001, 0.6))
            trial.check()
        trial.finish()
        nursery.settle()


@pytest.mark.parametrize("name", PASSED if KILLS else [])
def test_killed_at_each_failpoint(name: str, trial: Trial) -> None:
    """The first time, the second, the third: each once."""
    trial.go_through([f"{name}:{times}" for times in (1, 2, 3)])
