import errno
import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import until

from fedloom.core.errors import TransferError
from fedloom.core.types import Client
from fedloom.server.committer import Committer
from fedloom.server.database import Database
from fedloom.server.ledger import Ledger
from fedloom.server.records import Entry, Result, Ticket
from fedloom.server.segments import Bytes, Segments


class Store:
    """All of it over one folder."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.database = Database.open(folder, exclusive=True)
        self.ledger = Ledger(self.database)
        self.segments = Segments(folder / "segments", self.ledger.places(), size=1 << 16, spare=0)
        self.committer = Committer(self.ledger, self.segments, durable=durable)

    def begin(self, number: int, clients: int) -> list[Ticket]:
        cohort = [Client(f"c{i}", 1) for i in range(clients)]
        return list(self.ledger.begin(number, 1, 0, cohort).values())

    def submit(self, ticket: Ticket, payload: Bytes | Path) -> Future[int]:
        data = payload.read_bytes() if isinstance(payload, Path) else bytes(payload)
        result = Result(len(data), hashlib.sha256(data).hexdigest())
        return self.committer.submit(ticket, result, payload)

    def payloads(self, number: int) -> dict[str, bytes]:
        written = self.ledger.written(number)
        return {w.ticket.client: self.segments.read(w.place) for w in written}

    def close(self) -> None:
        self.committer.close()
        self.segments.close()
        self.database.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def code(future: Future[int]) -> str:
    error = future.exception(timeout=60)
    assert isinstance(error, TransferError)
    return error.code


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_acknowledged_is_written(tmp_path: Path, durable: bool) -> None:
    store = Store(tmp_path, durable=durable)
    tickets = store.begin(1, 5)
    upload = tmp_path / "upload"
    upload.write_bytes(b"file" * 1000)
    payloads: list[Bytes | Path] = [b"a", bytearray(b"bb"), memoryview(b"ccc"), b"", upload]
    futures = [store.submit(t, p) for t, p in zip(tickets, payloads, strict=True)]
    assert [future.result(timeout=60) for future in futures] == [1, 2, 3, 4, 5]
    expected = {"c0": b"a", "c1": b"bb", "c2": b"ccc", "c3": b"", "c4": b"file" * 1000}
    assert store.payloads(1) == expected
    assert not upload.exists()
    store.close()

    again = Store(tmp_path)
    assert again.payloads(1) == expected
    again.close()


def test_many_threads_submit_at_once(store: Store) -> None:
    tickets = store.begin(1, 200)
    futures: dict[str, Future[int]] = {}

    def work(part: list[Ticket]) -> None:
        for ticket in part:
            futures[ticket.client] = store.submit(ticket, ticket.id.encode() * 20)

    threads = [threading.Thread(target=work, args=(tickets[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(f.result(timeout=60) for f in futures.values()) == list(range(1, 201))
    assert store.payloads(1) == {t.client: t.id.encode() * 20 for t in tickets}


def test_those_that_wait_share_one_flush(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = store.begin(1, 130)
    flushes: list[int] = []
    flush = os.fdatasync
    go, first = threading.Event(), threading.Event()

    def counted(handle: int) -> None:
        flushes.append(handle)
        first.set()
        go.wait(timeout=60)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", counted)
    futures = [store.submit(tickets[0], b"x")]
    assert first.wait(timeout=60)
    futures += [store.submit(ticket, b"x") for ticket in tickets[1:]]
    go.set()
    for future in futures:
        future.result(timeout=60)
    assert len(flushes) == 4  # 1, 64, 64 and 1


def test_the_bytes_are_flushed_before_the_row_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ticket,) = store.begin(1, 1)
    steps: list[str] = []
    flush, record = store.segments.sync, store.ledger.record

    def noted_flush() -> None:
        flush()
        steps.append("flushed")

    def noted_record(entries: list[Entry], *, durable: bool) -> list[int | TransferError]:
        steps.append("row")
        return record(entries, durable=durable)

    monkeypatch.setattr(store.segments, "sync", noted_flush)
    monkeypatch.setattr(store.ledger, "record", noted_record)
    future = store.submit(ticket, b"x")
    future.add_done_callback(lambda _: steps.append("told"))
    future.result(timeout=60)
    store.committer.close()
    assert steps == ["flushed", "row", "told"]


def test_a_refused_one_says_why_and_the_others_are_written(store: Store) -> None:
    ann, bob = store.begin(1, 2)
    assert store.submit(ann, b"a").result(timeout=60) == 1
    assert store.submit(ann, b"a").result(timeout=60) == 1
    assert code(store.submit(ann, b"other")) == "duplicate"
    assert code(store.submit(replace(bob, client="ann"), b"b")) == "ticket-other"
    assert code(store.submit(replace(bob, round=7), b"b")) == "ticket-other"
    store.ledger.close(1)
    assert code(store.submit(bob, b"b")) == "round-over"
    assert store.payloads(1) == {"c0": b"a"}


def test_a_full_disk_refuses_and_later_ones_work(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = store.begin(1, 4)
    upload = tmp_path / "upload"
    upload.write_bytes(b"file")
    assert store.submit(tickets[0], b"a").result(timeout=60) == 1

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        refused = store.submit(tickets[1], b"b")
        assert code(refused) == "disk-full"
        error = refused.exception()
        assert isinstance(error, TransferError)
        assert error.retry_after == 30.0
        assert "the server cannot write this now: " in str(error)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        assert code(store.submit(tickets[2], upload)) == "disk-full"
        assert upload.read_bytes() == b"file"
    assert store.submit(tickets[1], b"b").result(timeout=60) == 2
    assert store.submit(tickets[2], upload).result(timeout=60) == 3
    assert store.payloads(1) == {"c0": b"a", "c1": b"b", "c2": b"file"}


def test_one_that_is_written_needs_no_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = store.begin(1, 2)
    upload = tmp_path / "upload"
    upload.write_bytes(b"a")
    assert store.submit(ann, b"a").result(timeout=60) == 1
    monkeypatch.setattr(os, "pwrite", lambda *_: 1 // 0)
    assert store.submit(ann, upload).result(timeout=60) == 1
    assert code(store.submit(replace(ann, client="c1"), b"a")) == "ticket-other"
    assert upload.exists()
    assert isinstance(store.submit(bob, b"b").exception(timeout=60), ZeroDivisionError)


def test_if_the_row_cannot_be_written_nothing_is_taken(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = store.begin(1, 2)
    upload = tmp_path / "upload"
    upload.write_bytes(b"file")

    def full(*_: object, **__: object) -> list[int | TransferError]:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.ledger, "record", full)
        assert [code(store.submit(ann, upload)), code(store.submit(bob, b"b"))] == ["disk-full"] * 2
    assert upload.read_bytes() == b"file"
    assert store.submit(bob, b"b").result(timeout=60) == 1
    assert store.submit(ann, upload).result(timeout=60) == 2
    assert store.payloads(1) == {"c0": b"file", "c1": b"b"}


def test_what_one_cannot_others_may(store: Store, tmp_path: Path) -> None:
    ann, bob, cy = store.begin(1, 3)
    missing = tmp_path / "missing"
    result = Result(4, "aa")
    with store.committer._writing:  # until all three wait
        futures = [
            store.submit(ann, b"a"),
            store.committer.submit(bob, result, missing),
            store.submit(cy, b"c"),
        ]
    assert code(futures[1]) == "disk-full"
    assert {futures[0].result(timeout=60), futures[2].result(timeout=60)} == {1, 2}


def test_a_mistake_of_ours_is_told_and_the_thread_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = store.begin(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(store.ledger, "record", lambda *_, **__: 1 // 0)
        assert isinstance(store.submit(ann, b"a").exception(timeout=60), ZeroDivisionError)
    assert store.submit(bob, b"b").result(timeout=60) == 1


def test_one_that_nobody_waits_for_any_more_is_not_written(store: Store) -> None:
    ann, bob, cy = store.begin(1, 3)
    with store.committer._writing:
        first = store.submit(ann, b"a")
        until(first.running, "the first write", every=0.001)
        second, third = store.submit(bob, b"b"), store.submit(cy, b"c")
        assert second.cancel()
    assert third.result(timeout=60) == 2
    assert sorted(store.payloads(1)) == ["c0", "c2"]


def test_the_next_rounds_sweep_removes_what_is_forgotten_only(store: Store, tmp_path: Path) -> None:
    store.submit(store.begin(1, 1)[0], b"old" * 20_000).result(timeout=60)
    ann, bob = store.begin(2, 2)
    store.submit(ann, b"new" * 10_000).result(timeout=60)
    store.committer.sweep()
    assert store.payloads(2) == {"c0": b"new" * 10_000}
    assert [path.name for path in (tmp_path / "segments").iterdir()] == ["00000002.segment"]
    assert store.submit(bob, b"b").result(timeout=60) == 3


def test_once_closed_it_writes_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tickets = store.begin(1, 20)
    futures = [store.submit(ticket, b"x") for ticket in tickets[:-1]]
    store.committer.close()
    assert [future.result(timeout=0) for future in futures] == list(range(1, 20))
    assert code(store.submit(tickets[-1], b"x")) == "busy"
    store.close()


def test_the_store_needs_no_torch() -> None:
    code = (
        "import sys, fedloom.server.committer, fedloom.server.register\n"
        "assert 'torch' not in sys.modules and 'grpc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
