"""The health service of gRPC, where its package is installed."""

import logging
from typing import Any

__all__ = ["add_health"]

log = logging.getLogger("fedloom.server")


async def add_health(server: Any) -> None:
    """Answer health checks (``grpc.health.v1``) on a server that is about to start."""
    try:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    except ImportError:
        log.info("no health service: pip install 'fedloom[server]'")
        return
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", "fedloom.v1.Federation"):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
