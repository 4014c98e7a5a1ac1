"""A disk that is full: what is acknowledged is safe, new results wait, and later all are taken."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from fedloom.core.errors import TransferError
from fedloom.core.types import Client
from fedloom.server.committer import Committer
from fedloom.server.database import Database
from fedloom.server.ledger import Ledger
from fedloom.server.records import Result, Ticket
from fedloom.server.segments import Segments

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "fedloom-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Store:
    def __init__(self, folder: Path, spare: int) -> None:
        self.database = Database.open(folder, exclusive=True)
        self.ledger = Ledger(self.database)
        places = self.ledger.places()
        self.segments = Segments(folder / "segments", places, size=MIB, spare=spare)
        self.committer = Committer(self.ledger, self.segments)

    def submit(self, ticket: Ticket) -> Future[int]:
        data = payload_of(ticket)
        result = Result(len(data), hashlib.sha256(data).hexdigest())
        return self.committer.submit(ticket, result, data)

    def tell(self, ticket: Ticket) -> int | str:
        """The number of a result, or the code of its refusal."""
        future = self.submit(ticket)
        error = future.exception(timeout=60)
        if error is None:
            return future.result()
        assert isinstance(error, TransferError)
        assert error.retry_after is not None
        return error.code

    def held(self) -> dict[str, bytes]:
        return {w.ticket.client: self.segments.read(w.place) for w in self.ledger.written(1)}

    def close(self) -> None:
        self.committer.close()
        self.segments.close()
        self.database.close()


def payload_of(ticket: Ticket) -> bytes:
    return (ticket.client.encode() * MIB)[: 700 * 1024]


def begin(store: Store) -> list[Ticket]:
    cohort = [Client(f"c{i:02d}", 1) for i in range(16)]
    return list(store.ledger.begin(1, 1, 0, cohort).values())


def test_when_there_is_room_again_results_are_taken_again(small_disk: Path) -> None:
    store = Store(small_disk, MIB)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(3 * MIB))
    tickets = begin(store)
    told = {ticket.client: store.tell(ticket) for ticket in tickets}
    taken = {client for client, outcome in told.items() if outcome != "disk-full"}
    assert 1 <= len(taken) < len(tickets)
    assert store.held() == {t.client: payload_of(t) for t in tickets if t.client in taken}

    store.close()  # a restart changes nothing
    store = Store(small_disk, MIB)
    assert set(store.held()) == taken
    assert "disk-full" in {store.tell(ticket) for ticket in tickets}

    filler.unlink()
    again = {t.client: store.tell(t) for t in tickets[:5]}
    assert all(isinstance(outcome, int) for outcome in again.values())
    assert {client: again[client] for client in taken & again.keys()}.items() <= told.items()
    store.close()


def test_when_not_even_a_row_fits_nothing_is_half_written(small_disk: Path) -> None:
    store = Store(small_disk, 0)
    tickets = begin(store)
    first = store.tell(tickets[0])
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        fill(file.fileno())
    told = [store.tell(ticket) for ticket in tickets[1:]]
    assert "disk-full" in told
    assert len(store.held()) == len([o for o in (first, *told) if isinstance(o, int)])
    filler.unlink()
    assert [isinstance(store.tell(ticket), int) for ticket in tickets[:5]] == [True] * 5
    assert store.tell(tickets[0]) == first
    store.close()


def fill(handle: int) -> None:
    """Write until nothing more fits, not a byte."""
    for size in (1 << 16, 1 << 12, 1):
        try:
            while True:
                os.write(handle, bytes(size))
        except OSError:
            pass


# The limit on a file's size stands for a full disk where nothing can be mounted.
LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_disk_full import Store, begin, payload_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path(sys.argv[1]), 0)
tickets = begin(store)
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
first = store.tell(tickets[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, no_limit[1]))
full = store.tell(tickets[1])
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
print(first, full, store.tell(tickets[1]), store.tell(tickets[0]))
assert store.held() == {t.client: payload_of(t) for t in tickets[:2]}
store.close()
"""


def test_an_error_of_the_disk_is_told_as_such(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "state"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
    )
    assert (done.stderr, done.stdout) == ("", "1 disk-full 2 1\n")
