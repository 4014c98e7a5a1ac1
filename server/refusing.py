"""Which gRPC status a refusal has; its code travels beside it."""

import logging
import sqlite3

import grpc

from fedloom.core.contract import REASON, RETRY_AFTER
from fedloom.core.errors import (
    CodecError,
    FedloomError,
    IdentityError,
    SplitError,
    TransferError,
    UpdateRefusedError,
)
from fedloom.server.counting import Counting
from fedloom.server.room import no_room

__all__ = ["TROUBLE", "code_of", "refuse", "told", "turn_away"]

TROUBLE = (FedloomError, OSError, sqlite3.Error)
"""What may end a call: a refusal, or a disk that cannot be written."""

_STATUS = {
    "not-enrolled": grpc.StatusCode.UNAUTHENTICATED,
    "tls": grpc.StatusCode.UNAUTHENTICATED,
    "wrong-federation": grpc.StatusCode.UNAUTHENTICATED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "quarantined": grpc.StatusCode.PERMISSION_DENIED,
    "ticket-other": grpc.StatusCode.PERMISSION_DENIED,
    "token-unknown": grpc.StatusCode.PERMISSION_DENIED,
    "token-expired": grpc.StatusCode.PERMISSION_DENIED,
    "token-used": grpc.StatusCode.PERMISSION_DENIED,
    "token-forged": grpc.StatusCode.PERMISSION_DENIED,
    "ticket-unknown": grpc.StatusCode.NOT_FOUND,
    "no-such-content": grpc.StatusCode.NOT_FOUND,
    "protocol": grpc.StatusCode.FAILED_PRECONDITION,
    "round-over": grpc.StatusCode.FAILED_PRECONDITION,
    "benched": grpc.StatusCode.FAILED_PRECONDITION,
    "duplicate": grpc.StatusCode.ALREADY_EXISTS,
    "order": grpc.StatusCode.FAILED_PRECONDITION,
    "credit": grpc.StatusCode.FAILED_PRECONDITION,
    "resume": grpc.StatusCode.FAILED_PRECONDITION,
    "superseded": grpc.StatusCode.ABORTED,
    "stalled": grpc.StatusCode.DEADLINE_EXCEEDED,
    "memory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "disk-full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "chunk-order": grpc.StatusCode.OUT_OF_RANGE,
    "chunk-crc": grpc.StatusCode.DATA_LOSS,
    "too-short": grpc.StatusCode.DATA_LOSS,
    "digest": grpc.StatusCode.DATA_LOSS,
}
_CODED = (CodecError, IdentityError, SplitError, TransferError, UpdateRefusedError)
_LONGEST = 500

log = logging.getLogger("fedloom.server")


def told(error: Exception) -> FedloomError:
    """What a client is told of one of `TROUBLE`."""
    if isinstance(error, FedloomError):
        return error
    return no_room(error)


def code_of(error: FedloomError) -> str:
    """The one word that a refusal is counted by."""
    if isinstance(error, _CODED):
        return error.code
    return "refused"


async def turn_away(
    context: "grpc.aio.ServicerContext",
    trouble: Exception,
    counting: Counting,
    *,
    what: str = "refused",
    level: int = logging.INFO,
) -> None:
    """End a call with what one of `TROUBLE` says, counted and logged; never returns."""
    error = told(trouble)
    code = code_of(error)
    counting.refused[code] += 1
    log.log(level, "%s: %s", what, error, extra={"code": code})
    await refuse(context, error)


async def refuse(context: "grpc.aio.ServicerContext", error: FedloomError) -> None:
    """End a call with what an error says; never returns.

    What is not in the table is a mistake in the request: ``INVALID_ARGUMENT``.
    """
    code = code_of(error)
    trailers = [(REASON, code)]
    after = error.retry_after if isinstance(error, TransferError) else None
    if after is not None:
        trailers.append((RETRY_AFTER, f"{after:.3f}"))
    status = _STATUS.get(code, grpc.StatusCode.INVALID_ARGUMENT)
    text = " ".join(str(error).split())[:_LONGEST]
    await context.abort(status, text, tuple(trailers))
