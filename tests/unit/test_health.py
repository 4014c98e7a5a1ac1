import asyncio
import builtins
from typing import Any

import grpc
import pytest

from fedloom.server.health import add_health
from fedloom.server.listen import bind, new_server


async def asked(service: str) -> Any:
    server = new_server()
    await add_health(server)
    port = bind(server, "127.0.0.1", 0, None)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            field = bytes([10, len(service)]) + service.encode() if service else b""
            return await check(field, timeout=10)
    finally:
        await server.stop(None)


@pytest.mark.parametrize("service", ["", "fedloom.v1.Federation"])
def test_it_says_that_it_serves(service: str) -> None:
    pytest.importorskip("grpc_health")
    assert asyncio.run(asked(service)) == b"\x08\x01"  # status: SERVING


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("grpc_health"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(asked(""))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
