"""Load on a real server: thousands of clients that enrol, check in, download and upload.

They do everything a device does on the wire, with a connection and a certificate each, and train
nothing: what they send are small random numbers in the layout of the model that they were given.
"""

import asyncio
import hashlib
import random
import resource
import time
from dataclasses import dataclass

from fedloom.core.errors import ConfigError, TransferError, require
from fedloom.load_client import Address, Enrolled, LightClient, enrol, enrolment_channel
from fedloom.load_measures import Measured
from fedloom.load_payload import Prepared, prepared
from fedloom.protos import federation_pb2 as wire
from fedloom.security.pinning import fetch_authority
from fedloom.security.tokens import JoinToken

__all__ = ["LoadPlan", "run_load"]

_ENROLLING = 32  # at once; on one connection the server takes 64 calls, some of them just ending
_KEPT = 2
_WAIT = 30.0
_NOTHING = Prepared("", 0, hashlib.sha256().hexdigest(), ())
"""The payload of an evaluation."""


@dataclass(frozen=True)
class LoadPlan:
    """A load test.

    Attributes:
        server: a join token of as many uses as there are clients; ``HOST:PORT`` of a server
            without TLS.
        clients: how many.
        seconds: after which no new work is begun.
        updates: uploads after which a client leaves (0: none).
        num_examples: that each client says it holds.
        prefix: of the clients' names.
    """

    server: str
    clients: int = 1000
    seconds: float = 60.0
    updates: int = 0
    num_examples: int = 100
    prefix: str = "load"

    def __post_init__(self) -> None:
        require(1 <= self.clients <= 99_999, "clients", self.clients, "1 to 99999")
        require(self.seconds > 0, "seconds", self.seconds, "above 0")
        require(self.updates >= 0, "updates", self.updates, "0 or more")
        require(self.num_examples >= 1, "num_examples", self.num_examples, "1 or more")

    @property
    def names(self) -> list[str]:
        """``load-00001`` and so on."""
        return [f"{self.prefix}-{number:05d}" for number in range(1, self.clients + 1)]


def run_load(plan: LoadPlan) -> Measured:
    """Run a load test to its end: times, rates and refusals.

    Raises:
        IdentityError: the token cannot be read, or another server answers.
        TransferError: nobody answers, or no client could enrol.
        ConfigError: this process may not open a connection for each client.
    """
    _allow_files(plan.clients + 256)
    return asyncio.run(_run(plan))


async def _run(plan: LoadPlan) -> Measured:
    measured = Measured()
    known = await _everyone(plan, measured)
    models = _Models(measured)
    until = time.monotonic() + plan.seconds
    await asyncio.gather(*(_Device(who, plan, models, measured).live(until) for who in known))
    return measured


async def _everyone(plan: LoadPlan, measured: Measured) -> list[Enrolled]:
    if not plan.server.startswith("flt1."):
        host, _, port = plan.server.rpartition(":")
        require(port.isdigit(), "server", plan.server, "a join token (flt1...) or HOST:PORT")
        address = Address(host.strip("[]"), int(port))
        return [Enrolled(name, address) for name in plan.names]
    token = JoinToken.parse(plan.server)
    authority = await asyncio.to_thread(fetch_authority, token.host, token.port, token.pin)
    channel = enrolment_channel(Address(token.host, token.port, authority))
    free, refused = asyncio.Semaphore(_ENROLLING), list[TransferError]()

    async def one(name: str) -> Enrolled | None:
        async with free:
            try:
                with measured.call("enrol"):
                    return await enrol(channel, token, name, authority)
            except TransferError as error:
                refused.append(error)
                return None

    known = [who for who in await asyncio.gather(*map(one, plan.names)) if who is not None]
    await channel.close()
    if not known:
        raise refused[0]
    return known


class _Models:
    """Each model is downloaded once for all clients, and its answer prepared once."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._known: dict[str, asyncio.Task[Prepared]] = {}

    async def answer(self, model: wire.Blob, client: LightClient) -> Prepared:
        """The payload for a task on `model`, which `client` fetches unless another has."""
        found = self._known.get(model.sha256)
        if found is None or (found.done() and found.exception()):
            found = asyncio.create_task(self._fetched(model, client))
            self._known[model.sha256] = found
            for old in list(self._known)[:-_KEPT]:
                del self._known[old]
        return await asyncio.shield(found)

    async def _fetched(self, model: wire.Blob, client: LightClient) -> Prepared:
        with self._measured.call("download", model.size):
            frame = await client.download(model.sha256)
        return await asyncio.to_thread(prepared, frame)


class _Device:
    """One client's life: check in, upload, and again."""

    def __init__(self, who: Enrolled, plan: LoadPlan, models: _Models, measured: Measured) -> None:
        self._client = LightClient(who, num_examples=plan.num_examples)
        self._left = plan.updates or None
        self._models = models
        self._measured = measured
        self._random = random.Random(who.name)

    async def live(self, until: float) -> None:
        """Until the federation is done, the client has sent enough, or the time is over."""
        try:
            while self._left != 0 and time.monotonic() < until:
                try:
                    if not await self._once(until):
                        return
                except TransferError as refusal:
                    if refusal.retry_after is None:
                        return  # counted; what is wrong stays wrong
                    await self._pause(refusal.retry_after, until)
        finally:
            await self._client.close()

    async def _once(self, until: float) -> bool:
        """One check-in and what follows; whether there may be more."""
        wait = max(0.0, min(_WAIT, until - time.monotonic()))
        with self._measured.call("check in"):
            reply = await self._client.check_in(wait)
        match reply.WhichOneof("next"):
            case "task":
                await self._do(reply.task, until)
            case "wait":
                await self._pause(reply.wait.seconds, until)
            case _:
                return False
        return True

    async def _do(self, task: wire.Task, until: float) -> None:
        payload = _NOTHING
        if task.kind == "train":
            payload = await self._models.answer(task.model, self._client)
        offset = 0
        while time.monotonic() < until:
            try:
                with self._measured.call("upload", payload.size - offset):
                    await self._client.send(task.ticket, payload, offset=offset)
                break
            except TransferError as refusal:
                if refusal.retry_after is None:
                    return  # counted; the next check-in says what to do
                await self._pause(refusal.retry_after, until)
            status = await self._client.arrived(task.ticket)
            if status.HasField("receipt"):
                break
            offset = status.offset
        if self._left is not None:
            self._left -= 1

    async def _pause(self, seconds: float, until: float) -> None:
        """As long as the server asks and up to half as long again, that not all come at once."""
        asked = seconds * self._random.uniform(1.0, 1.5)
        await asyncio.sleep(min(asked, max(0.0, until - time.monotonic())))


def _allow_files(count: int) -> None:
    """Let this process open `count` files, which connections are.

    Raises:
        ConfigError: the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ConfigError(f"clients: {hard} files may be open here, {count} are needed: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
