import asyncio
import sqlite3

import grpc
import pytest
from small_server import Aborted, Context

from fedloom.core.errors import (
    ConfigError,
    FedloomError,
    IdentityError,
    TransferError,
    UpdateRefusedError,
)
from fedloom.server.refusing import TROUBLE, code_of, refuse, told

CODES = {
    "UNAUTHENTICATED": ("not-enrolled", "tls", "wrong-federation"),
    "PERMISSION_DENIED": (
        *("revoked", "quarantined", "ticket-other"),
        *("token-unknown", "token-expired", "token-used", "token-forged"),
    ),
    "NOT_FOUND": ("ticket-unknown", "no-such-content"),
    "FAILED_PRECONDITION": ("protocol", "round-over", "benched"),
    "ALREADY_EXISTS": ("duplicate",),
    "RESOURCE_EXHAUSTED": ("busy", "disk-full"),
    "OUT_OF_RANGE": ("chunk-order",),
    "DATA_LOSS": ("chunk-crc", "too-short", "digest"),
    "INVALID_ARGUMENT": (
        *("too-large", "codec", "layout", "not-finite", "norm", "weight", "no-delta"),
        *("csr", "name"),
    ),
}


def refused(error: FedloomError) -> Aborted:
    with pytest.raises(Aborted) as caught:
        asyncio.run(refuse(Context(), error))
    return caught.value


@pytest.mark.parametrize("status", CODES)
def test_every_code_has_its_status(status: str) -> None:
    for code in CODES[status]:
        for error in (TransferError("x", code=code), UpdateRefusedError("x", code=code)):
            found = refused(error)
            assert (found.status, found.trailers) == (
                grpc.StatusCode[status],
                {"fedloom-reason": code},
            )


def test_when_to_come_again_is_said_where_it_helps() -> None:
    found = refused(TransferError("full", code="busy", retry_after=2.5))
    assert found.trailers == {"fedloom-reason": "busy", "retry-after": "2.500"}


def test_a_refusal_is_one_line_and_not_long() -> None:
    assert refused(TransferError("a\n  b", code="busy")).text == "a b"
    assert len(refused(TransferError("x" * 9999, code="busy")).text) == 500


def test_errors_without_a_code() -> None:
    assert code_of(ConfigError("x")) == "refused"
    assert code_of(IdentityError("x", code="tls")) == "tls"


def test_a_disk_that_fails_is_told_as_full() -> None:
    for error in (OSError(28, "No space left"), sqlite3.OperationalError("disk is full")):
        assert isinstance(error, TROUBLE)
        found = told(error)
        assert isinstance(found, TransferError)
        assert (found.code, found.retry_after) == ("disk-full", 30.0)
        assert str(error) in str(found)
    ours = TransferError("x", code="busy")
    assert told(ours) is ours
