"""The store is killed wherever it can be: nothing acknowledged is lost, nothing counts twice.

``FEDLOOM_KILLS=200`` kills so many times at random beside once at each failpoint.
"""

import os
import random
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_forks import start
from store_worker import CLIENTS, ROUNDS, payload_of, total

from fedloom.server.database import Database
from fedloom.server.failpoints import STORE, VARIABLE
from fedloom.server.ledger import Ledger
from fedloom.server.register import Register
from fedloom.server.segments import Segments

KILLS = int(os.environ.get("FEDLOOM_KILLS", "8"))


@dataclass
class Trial:
    """One folder, the processes that worked in it, and what they acknowledged."""

    folder: Path
    seed: int
    acknowledged: dict[tuple[int, str], int] = field(default_factory=dict)
    enrolled: bool = False

    def run(self, failpoint: str = "", seconds: float = 60.0) -> int:
        """Work until the end, the failpoint, or so long; what it said is noted.

        Returns:
            The exit code.
        """
        words, variables = (self.folder, str(self.seed)), {VARIABLE: failpoint}
        process = start(words, call="e2e.store_worker:main", variables=variables)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        said, errors = process.communicate()
        assert errors == ""
        for line in said.splitlines():
            self.note(line.split())
        return process.wait()

    def note(self, words: list[str]) -> None:
        if words[0] == "ack":
            key, seq = (int(words[1]), words[2]), int(words[3])
            assert self.acknowledged.setdefault(key, seq) == seq
        elif words[0] == "sum":
            number = int(words[1])
            everything = [payload_of(self.seed, number, f"c{i}") for i in range(CLIENTS)]
            assert words[2:] == [str(CLIENTS), total(everything)]
        self.enrolled |= words[0] == "enrolled"

    def check(self) -> None:
        """What was acknowledged is there, with its number and its bytes, once."""
        database = Database.open(self.folder, exclusive=True)
        ledger = Ledger(database)
        segments = Segments(self.folder / "segments", ledger.places(), size=1000, spare=0)
        opened = ledger.current()
        number = 0 if opened is None else opened.number
        written = {w.ticket.client: w for w in ledger.written(number)}
        assert len(written) == len(ledger.written(number))
        for client, one in written.items():
            assert segments.read(one.place) == payload_of(self.seed, number, client)
        acknowledged = {c: seq for (r, c), seq in self.acknowledged.items() if r == number}
        assert acknowledged.items() <= {c: one.seq for c, one in written.items()}.items()
        assert all(r <= number for r, _ in self.acknowledged)
        assert len(Register(database).clients()) <= 1
        assert len(Register(database).clients()) == 1 or not self.enrolled
        segments.close()
        database.close()

    def finish(self) -> None:
        """Go on to the end, where the sums are those of everything."""
        assert self.run() == 0
        self.check()
        numbers = self.acknowledged.values()
        assert len(set(numbers)) == len(self.acknowledged) <= ROUNDS * CLIENTS


def test_without_a_kill_everything_is_acknowledged(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "state", 1)
    trial.finish()
    assert len(trial.acknowledged) == ROUNDS * CLIENTS


@pytest.mark.parametrize("failpoint", STORE)
def test_killed_at_each_failpoint_it_goes_on(failpoint: str, tmp_path: Path) -> None:
    trial = Trial(tmp_path / "state", 2)
    assert trial.run(failpoint) == -signal.SIGKILL
    trial.check()
    trial.finish()


@pytest.mark.parametrize("seed", range(max(1, KILLS // 4)))
def test_killed_again_and_again_it_goes_on(seed: int, tmp_path: Path) -> None:
    """Four kills each: at the nth time of a failpoint, or after a time."""
    stream = random.Random(seed)
    trial = Trial(tmp_path / "state", 100 + seed)
    for _ in range(4):
        if stream.random() < 0.7:
            trial.run(f"{stream.choice(STORE)}:{stream.randint(1, 12)}")
        else:
            trial.run(seconds=stream.uniform(0.15, 0.6))
        trial.check()
    trial.finish()
