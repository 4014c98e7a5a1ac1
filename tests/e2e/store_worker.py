"""A process that only stores: two rounds of seeded payloads, each acknowledgement printed.

Started again on the same folder it goes on where it was, whatever ended it. It imports no torch.
"""

import hashlib
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.types import Client
from fedloom.server.committer import Committer
from fedloom.server.database import Database
from fedloom.server.ledger import Ledger
from fedloom.server.records import OpenRound, Result, Ticket
from fedloom.server.register import Register
from fedloom.server.segments import Segments

ROUNDS = 2
CLIENTS = 24
THREADS = 4
SEGMENT = 48 << 10


@dataclass(frozen=True)
class Paper:
    serial: int


def payload_of(seed: int, round: int, client: str) -> bytes:
    """What a client sends: 0 to 20,000 bytes."""
    stream = random.Random(f"{seed}/{round}/{client}")
    return stream.randbytes(stream.choice([0, 10, 300, 5_000, 20_000]))


def total(payloads: Sequence[bytes]) -> str:
    """The sum of payloads as integers, whose order does not matter; a digest of it."""
    value = sum(int.from_bytes(data) for data in payloads)
    return hashlib.sha256(str(hex(value)).encode()).hexdigest()


def say(*words: object) -> None:
    """One line, whole, at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Worker:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.database = Database.open(folder, exclusive=True)
        self.ledger = Ledger(self.database)
        places = self.ledger.places()
        self.segments = Segments(folder / "segments", places, size=SEGMENT, spare=0)
        self.committer = Committer(self.ledger, self.segments)

    def enrol(self) -> None:
        """Enrol one device, which keeps its token until it has the answer."""
        tokens = Register(self.database).tokens
        kept = self.folder / "token"
        if not kept.exists():
            part = self.folder / "token.part"
            part.write_text(" ".join(tokens.create()))
            part.rename(kept)
        id, secret = kept.read_text().split()
        tokens.redeem(id, secret, name="device", key="k", issue=lambda _: Paper(1))
        say("enrolled")

    def work(self) -> None:
        while True:
            opened = self.ledger.current()
            if opened is None or (opened.closed and opened.number < ROUNDS):
                self.begin(1 if opened is None else opened.number + 1)
            elif opened.closed:
                break
            else:
                self.committer.sweep()
                self.collect(opened)
                self.ledger.close(opened.number)
                self.say_sum(opened.number)
        self.say_sum(ROUNDS)
        say("done")

    def begin(self, number: int) -> None:
        self.ledger.begin(number, 1, 0, [Client(f"c{i}", 1) for i in range(CLIENTS)])
        self.committer.sweep()

    def collect(self, opened: OpenRound) -> None:
        """Send everything, from several threads; those acknowledged before are sent again."""
        tickets = list(opened.tickets.values())
        random.Random(os.getpid()).shuffle(tickets)
        threads = [
            threading.Thread(target=self.send, args=(tickets[i::THREADS],)) for i in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def send(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if int(ticket.client[1:]) % 8 == 0 and ticket.attempt == 1:
                known = self.ledger.receipt(ticket.id)
                ticket = self.ledger.reissue(ticket) if known is None else ticket
            data = payload_of(self.seed, ticket.round, ticket.client)
            result = Result(len(data), hashlib.sha256(data).hexdigest())
            payload: bytes | Path = data
            if int(ticket.client[1:]) % 7 == 0:
                payload = self.folder / f"{ticket.id}.part"
                payload.write_bytes(data)
            seq = self.committer.submit(ticket, result, payload).result()
            say("ack", ticket.round, ticket.client, seq)

    def say_sum(self, number: int) -> None:
        written = self.ledger.written(number)
        say("sum", number, len(written), total([self.segments.read(w.place) for w in written]))

    def close(self) -> None:
        self.committer.close()
        self.segments.close()
        self.database.close()


def main(words: Sequence[str]) -> None:
    """Store until all is there: FOLDER SEED."""
    folder, seed = words
    worker = Worker(Path(folder), int(seed))
    worker.enrol()
    worker.work()
    worker.close()
