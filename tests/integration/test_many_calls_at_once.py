"""More calls at once than gRPC lets wait by default: every one of them is answered."""

import asyncio
from typing import Any

import grpc

from fedloom.server.listen import bind, new_server

CHANNELS, EACH = 30, 60


async def _answer(request: bytes, context: Any) -> bytes:
    return request


async def _calls() -> list[bytes | BaseException]:
    server = new_server()
    calls = {"Echo": grpc.unary_unary_rpc_method_handler(_answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", calls),))
    port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(CHANNELS)
    ]
    for channel in channels:
        await channel.channel_ready()
    made = [channel.unary_unary("/test/Echo")(b"x") for channel in channels for _ in range(EACH)]
    found = await asyncio.gather(*made, return_exceptions=True)
    await asyncio.gather(*(channel.close() for channel in channels))
    await server.stop(0)
    return list(found)


def test_none_of_many_calls_is_dropped() -> None:
    found = asyncio.run(asyncio.wait_for(_calls(), 60))
    assert len(found) == CHANNELS * EACH
    assert [one for one in found if one != b"x"] == []
