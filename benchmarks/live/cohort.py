"""A round of so many updates from few connections: ``cohort.py UPDATES MIB``; one line of JSON.

The server's memory is to depend on neither: `AT_ONCE` connections are open in any case, each for
many clients one after the other.
"""

import asyncio
import json
import sys
from typing import Any

import grpc

from fedloom.load_payload import Prepared
from fedloom.protos import federation_pb2 as wire
from fedloom.protos.federation_pb2_grpc import FederationStub
from live.bare import MIB, bare_server, floats
from live.caller import update_of
from live.processes import peak_mib

__all__ = ["measure"]

AT_ONCE, LIMIT = 50, 420.0
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def _clients(port: int, updates: int, payload: Prepared) -> None:
    """Everyone checks in, so that all are there; then everyone works."""
    names = [f"client-{number:05d}" for number in range(updates)]
    doors = [_Door(port) for _ in range(AT_ONCE)]
    for working in (False, True):
        left = iter(names)
        await asyncio.gather(*(door.serve(left, payload if working else None) for door in doors))
    await asyncio.gather(*(door.channel.close() for door in doors))


class _Door:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
        self._stub: Any = FederationStub(self.channel)
        self._upload = self.channel.stream_unary(
            "/fedloom.v1.Federation/Upload",
            request_serializer=None,
            response_deserializer=wire.Receipt.FromString,
        )

    async def serve(self, names: Any, payload: Prepared | None) -> None:
        """One client after the other, from names that all connections share."""
        for name in names:
            metadata = (("fedloom-client", name),)
            wait = 0.0 if payload is None else 60.0
            request = wire.CheckInRequest(protocol=1, num_examples=3, wait_seconds=wait)
            reply = await self._stub.CheckIn(request, metadata=metadata)
            if payload is not None:
                await self._upload(_parts(reply.task.ticket, payload), metadata=metadata)


async def _parts(ticket: str, payload: Prepared) -> Any:
    header = wire.UploadHeader(
        ticket=ticket,
        size=payload.size,
        sha256=payload.sha256,
        codec=payload.codec,
        num_examples=3,
    )
    yield wire.UploadPart(header=header).SerializeToString()
    for part in payload.parts:
        yield part


def measure(updates: int, mib: float) -> dict[str, float]:
    """Peak memory of the server over one round."""
    size = int(mib * MIB)
    with bare_server(
        size=floats(size),
        rounds=1,
        clients=updates,
        insecure=True,
        present=LIMIT,
        patience=LIMIT,
    ) as bare:
        asyncio.run(asyncio.wait_for(_clients(bare.port, updates, update_of(size)), LIMIT))
        bare.await_rounds(1, seconds=60)
        text = (bare.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        line = json.loads(text.splitlines()[1])
        return {
            "accepted": line["accepted"],
            "round_seconds": line["seconds"],
            "peak_memory_mib": peak_mib(bare.process.pid),
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]))))
