"""A federation of a split job: its split calls on loopback, its devices in threads of the test."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.client.channel import Channel
from fedloom.client.manifest import Manifest, read_manifest, read_order
from fedloom.client.settings import ClientSettings
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.client.split_work import Remote, SplitWork
from fedloom.client.worker import Worker
from fedloom.core.job import Job, job_from
from fedloom.core.types import State
from fedloom.progress import Quiet
from fedloom.server.board import Offer
from fedloom.server.course import Played
from fedloom.server.federation import Federation
from fedloom.server.listen import Anyone, bind, new_server
from fedloom.server.records import Result
from fedloom.server.setup import plan_of
from fedloom.server.split_service import SplitCalls
from fedloom.server.wire import RawChunk
from fedloom.simulation.simulator import Run
from fedloom.tuning.data import corpus_from_rows
from fedloom.tuning.reading import reading_of

SETTINGS = ClientSettings(threads=1, device="cpu", cache_gb=0.0)
CLASSES = ["field", "harbour", "treasury"]
ROUNDS = 2


def table_of(model: Path, split: dict[str, Any], clients: int = 2, **stage: Any) -> dict[str, Any]:
    local = {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "clip_norm": 0.5, "head_lr": 0.05}
    own = {"rounds": ROUNDS, "clients_per_round": clients, "local": local | stage.pop("local", {})}
    table = classify_table(model)
    table["stages"] = [own | stage]
    table["run"] |= {"cache_gb": 0.0, "clients_at_once": 1}
    return table | {"split": {"bottom": 1, "top": 1} | split}


def rows_of(clients: int) -> list[dict[str, str]]:
    """One client has fewer examples than the others, and so takes fewer steps."""
    rows = labelled_rows(12 * clients, clients=clients)
    return [row for i, row in enumerate(rows) if row["client"] != "c00" or i < 8 * clients]


def simulated(table: dict[str, Any], folder: Path, clients: int = 2) -> Run:
    table = table | {"run": table["run"] | {"directory": str(folder / "simulated")}}
    return fedloom.simulate(table, data=rows_of(clients), observer=Quiet())


def job_of(table: dict[str, Any], folder: Path, **server: Any) -> Job:
    data = {"client": "client", "split": "split", "classes": CLASSES}
    own = {"directory": str(folder / "state"), "listen": "127.0.0.1", "insecure": True, **server}
    return job_from(table | {"data": data, "server": {"min_clients": 1} | own})


@contextmanager
def opened(table: dict[str, Any], folder: Path, **server: Any) -> Iterator[Federation]:
    plan = plan_of(job_of(table, folder, **server), lambda _: None)
    federation = Federation.open(plan, Quiet())
    try:
        yield federation
    finally:
        federation.intake.pool.shutdown()
        federation.close()


@contextmanager
def ports(federation: Federation) -> Iterator[int]:
    """The port of the split calls."""
    assert federation.hosting is not None
    hosting, loop, found = federation.hosting, asyncio.new_event_loop(), list[int]()
    ready, end = threading.Event(), asyncio.Event()
    calls = SplitCalls(Anyone(), hosting, hosting.room, federation.counting)

    async def run() -> None:
        server = new_server()
        server.add_generic_rpc_handlers((calls.handler(),))
        found.append(bind(server, "127.0.0.1", 0, None))
        await server.start()
        hosting.loop = loop
        ready.set()
        await end.wait()
        await server.stop(0.2)
        hosting.loop = None

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


def read(federation: Federation, address: str) -> bytes:
    return b"".join(bytes(piece[-1]) for piece in federation.contents.open(address))


@dataclass(eq=False)
class Device:
    """One device: its own examples, and a channel.

    Attributes:
        name: of the client.
        federation: whose tasks it does.
        folder: its own.
        rows: of all clients.
        tier: its kind.
        between: called with the session when it has trained, before it says that it is over.
    """

    name: str
    federation: Federation
    folder: Path
    rows: list[dict[str, str]]
    tier: str = ""
    between: Callable[[RemoteFar], object] = lambda far: None
    plans: list[SpanPlan] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    worker: Worker | None = None

    def work(self, port: int, over: threading.Event) -> None:
        """Do what is offered until the test is over."""
        done = set[str]()
        while not over.wait(0.005):
            offer = self.federation.board.offered(self.name)
            if offer is None or offer.ticket.id in done or self.federation.intake.gate is None:
                continue
            done.add(offer.ticket.id)
            try:
                self.do(offer, port)
            except Exception as error:
                self.errors.append(error)
                ticket = offer.ticket
                self.federation.intake.gave_up(ticket.client, ticket.id, str(error))

    def do(self, offer: Offer, port: int) -> int:
        """Train as the offer asks, and hand the result in."""
        channel = Channel("127.0.0.1", port, name=self.name)
        try:
            result, payload = self.trained(offer, channel)
        finally:
            channel.close()
        return asyncio.run(self._hand_in(offer, result, payload))

    def trained(self, offer: Offer, channel: Channel) -> tuple[Result, bytes]:
        manifest = read_manifest(read(self.federation, self.federation.job.sha256))
        order = read_order(offer.order, manifest)
        worker = self._worker(manifest, order.task.bottom)
        assert worker.split is not None
        worker.split = replace(worker.split, connect=partial(self._connect, channel))
        frame = read(self.federation, offer.model)
        finished, payload = worker.train(order, offer.ticket.id, frame)
        count, metrics = finished.num_examples, finished.metrics
        digest, size = sha256(payload).hexdigest(), len(payload)
        return Result(size, digest, finished.codec, count, metrics), payload

    async def _hand_in(self, offer: Offer, result: Result, payload: bytes) -> int:
        async def chunks() -> Any:
            yield RawChunk(0, crc32(payload), memoryview(payload))

        take = self.federation.intake.take
        return await take(self.name, offer.ticket.id, result, 0, chunks())

    def _connect(self, channel: Channel, plan: SpanPlan) -> Remote:
        self.plans.append(plan)
        far = RemoteFar(channel.split, plan, attempts=3)
        far.open()
        return _Watched(far, self.between)

    def _worker(self, manifest: Manifest, bottom: int | None) -> Worker:
        if self.worker is not None:
            return self.worker
        home = next(iter(self.federation.plan.files.values())).parent
        job, name = manifest.job, self.federation.job.sha256
        split = SplitWork(job, name, home, lambda _: _never(), self.folder, bottom)
        own = [row for row in self.rows if row["client"] == self.name and row["split"] == "train"]
        config = replace(job.data, classes=manifest.classes)
        corpus = corpus_from_rows(own, config, reading_of(job.backbone, home))
        self.worker = Worker(manifest, home, corpus, SETTINGS, self.folder, split=split)
        return self.worker


class _Watched(RemoteFar):
    """A session with somebody who looks on."""

    def __init__(self, far: RemoteFar, between: Callable[[RemoteFar], object]) -> None:
        vars(self).update(vars(far))
        self._between = between

    def sync(self) -> int:
        found = super().sync()
        self._between(self)
        return found


def _never() -> Remote:
    raise AssertionError("a task says which session it has")


@contextmanager
def at_work(devices: Mapping[str, Device], port: int) -> Iterator[None]:
    """Devices that are there, each in a thread."""
    over = threading.Event()
    with ThreadPoolExecutor(len(devices)) as threads:
        for name, device in devices.items():
            count = sum(r["client"] == name and r["split"] == "train" for r in device.rows)
            device.federation.board.seen(name, count, tier=device.tier)
            device.folder.mkdir(exist_ok=True)
            threads.submit(device.work, port, over)
        try:
            yield
        finally:
            over.set()


def devices_of(federation: Federation, folder: Path, clients: int = 2) -> dict[str, Device]:
    names = [f"c{i:02d}" for i in range(clients)]
    return {n: Device(n, federation, folder / n, rows_of(clients)) for n in names}


def live(federation: Federation, devices: Mapping[str, Device]) -> list[Played]:
    """All rounds, played with the devices."""
    with ports(federation) as port, at_work(devices, port):
        state = State(federation.plan.start)
        found = list(federation.live.play(0, state, first=1, last=ROUNDS))
    assert [device.errors for device in devices.values()] == [[]] * len(devices)
    return found


def bits(vector: Any) -> bytes:
    return np.asarray(vector).tobytes()
