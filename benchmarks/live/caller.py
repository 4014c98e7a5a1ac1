"""Clients that make one kind of call again and again: ``caller.py WHERE CLIENTS KIND CALLS [MIB]``.

WHERE is a join token, ``HOST:PORT``, or ``FOLDER:PORT`` with the clients' certificates in it; KIND
is ``upload`` or ``checkin``. Each client has a connection of its own and makes one call after the
other. A line of JSON when all have made one call; then, told to go on, the rest, and another line.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from fedloom.codecs.dense import Float32
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta
from fedloom.load_client import Address, Enrolled, LightClient, enrol, enrolment_channel
from fedloom.load_payload import Prepared, prepared
from fedloom.security.pinning import fetch_authority
from fedloom.security.tokens import JoinToken
from live.bare import MIB, floats

TICKET = "0" * 32


def update_of(size: int) -> Prepared:
    """An update of so many bytes."""
    count = floats(size)
    layout = Layout((TensorSpec("w", (count,), block="layer.0"),))
    return prepared(Float32().encode(Delta(layout, np.zeros(count, np.float32))).frame)


async def _known(where: str, count: int) -> list[Enrolled]:
    """Who calls, enrolled where the server has TLS."""
    if where.startswith("flt1."):
        token = JoinToken.parse(where)
        authority = await asyncio.to_thread(fetch_authority, token.host, token.port, token.pin)
        channel = enrolment_channel(Address(token.host, token.port, authority))
        found = [await enrol(channel, token, f"c{i}", authority) for i in range(count)]
        await channel.close()
        return found
    host, _, port = where.rpartition(":")
    folder = Path(host)
    if not folder.is_dir():
        return [Enrolled(f"c{i}", Address(host, int(port))) for i in range(count)]
    address = Address("127.0.0.1", int(port), (folder / "authority.pem").read_bytes())
    pairs = [(folder / f"{i}.key", folder / f"{i}.pem") for i in range(count)]
    return [
        Enrolled(key.stem, address, key.read_bytes(), certificate.read_bytes())
        for key, certificate in pairs
    ]


async def _calls(client: LightClient, kind: str, payload: Prepared, count: int) -> None:
    for _ in range(count):
        if kind == "upload":
            await client.send(TICKET, payload)
        else:
            await client.check_in(0.0)


async def _main() -> None:
    where, count, kind, calls, *rest = sys.argv[1:]
    payload = update_of(int(float(rest[0]) * MIB) if rest else MIB)
    known = await _known(where, int(count))
    clients = [LightClient(who, num_examples=1) for who in known]
    await asyncio.gather(*(_calls(client, kind, payload, 1) for client in clients))
    print(json.dumps({"warm": True}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(_calls(client, kind, payload, int(calls)) for client in clients))
    print(json.dumps({"done": True}), flush=True)
    await asyncio.gather(*(client.close() for client in clients))


if __name__ == "__main__":
    asyncio.run(_main())
