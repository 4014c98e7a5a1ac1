"""A gRPC server that answers who calls, and can be run alone: FOLDER and ``floor`` or ``open``."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fedloom.core.errors import IdentityError
from fedloom.security.authority import Authority
from fedloom.security.floor import only_tls13
from fedloom.security.peer import peer_of

METHOD = "/test/Who"
REASON = "fedloom-reason"


def credentials(authority: Authority, *, mutual: bool) -> Any:
    import grpc

    pair = authority.server_identity()
    root = authority.certificate if mutual else None
    return grpc.ssl_server_credentials([(pair.key, pair.certificate)], root, mutual)


@contextmanager
def serve(authority: Authority, heard: list[str], *, mutual: bool = True) -> Iterator[int]:
    """A server with threads; yields its port. `heard` gets what each call was answered."""
    import grpc

    def who(_: bytes, context: Any) -> bytes:
        try:
            client = peer_of(context.auth_context(), authority.federation).client
        except IdentityError as error:
            heard.append(f"{error.code}: {error}")
            context.set_trailing_metadata(((REASON, error.code),))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        heard.append(f"ok: {client}")
        return client.encode()

    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        port = server.add_secure_port("127.0.0.1:0", credentials(authority, mutual=mutual))
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@asynccontextmanager
async def serve_async(authority: Authority) -> AsyncIterator[int]:
    """A server on an event loop; yields its port."""
    import grpc

    async def who(_: bytes, context: Any) -> bytes:
        try:
            return peer_of(context.auth_context(), authority.federation).client.encode()
        except IdentityError as error:
            metadata = ((REASON, error.code),)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), metadata)
            raise

    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials(authority, mutual=True))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
        await asyncio.sleep(0)


def main(folder: str, floor: str) -> None:
    """Serve until the standard input ends; print the port, then what each call was answered."""
    if floor == "floor":
        only_tls13()
    heard: list[str] = []
    with serve(Authority.open(Path(folder)), heard) as port:
        print(port, flush=True)
        sys.stdin.read()
    print("\n".join(heard))


if __name__ == "__main__":
    main(*sys.argv[1:])
