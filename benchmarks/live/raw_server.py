"""gRPC alone: ``raw_server.py FOLDER plain|tls``; the calls of our service, answered with nothing.

Chunks are taken as bytes and dropped; check-ins are answered at once. It is what Python's gRPC
costs by itself, with our options.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from fedloom.protos import federation_pb2 as wire
from fedloom.security.authority import Authority
from fedloom.server.listen import bind, new_server

NAMES = 100


async def _upload(parts: AsyncIterator[bytes], context: Any) -> wire.Receipt:
    async for _ in parts:
        pass
    return wire.Receipt(seq=1)


async def _check_in(request: wire.CheckInRequest, context: Any) -> wire.CheckInReply:
    return wire.CheckInReply(wait=wire.Wait(seconds=0.0))


def _handler() -> grpc.GenericRpcHandler:
    calls = {
        "Upload": grpc.stream_unary_rpc_method_handler(
            _upload, None, wire.Receipt.SerializeToString
        ),
        "CheckIn": grpc.unary_unary_rpc_method_handler(
            _check_in, wire.CheckInRequest.FromString, wire.CheckInReply.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("fedloom.v1.Federation", calls)


def _identities(authority: Authority, folder: Path) -> None:
    """A key and a certificate for each client, as files."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    from fedloom.security.request import make_request

    form = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    for number in range(NAMES):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = authority.sign(make_request(key), f"raw-{number}", hours=1)
        (folder / f"{number}.key").write_bytes(key.private_bytes(*form))
        (folder / f"{number}.pem").write_bytes(issued.certificate)
    (folder / "authority.pem").write_bytes(authority.certificate)


async def _serve(folder: Path, *, secure: bool) -> None:
    server = new_server()
    server.add_generic_rpc_handlers((_handler(),))
    if secure:
        authority = Authority.open(folder / "authority")
        _identities(authority, folder)
        port = bind(server, "127.0.0.1", 0, authority.server_identity(["127.0.0.1"]), authority)
    else:
        port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), secure=sys.argv[2] == "tls"))
