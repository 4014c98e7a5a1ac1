"""How a device takes refusals, for the conformance vectors."""

from collections.abc import Mapping
from typing import Any

from fedloom.client.refusals import failure, is_passing
from fedloom.core.contract import REASON, RETRY_AFTER
from fedloom.core.errors import TransferError

REFUSALS: tuple[tuple[str, dict[str, str]], ...] = (
    ("RESOURCE_EXHAUSTED", {REASON: "busy", RETRY_AFTER: "2.5"}),
    ("NOT_FOUND", {REASON: "ticket-unknown"}),
    ("PERMISSION_DENIED", {REASON: "revoked"}),
    ("DATA_LOSS", {REASON: "chunk-crc"}),
    ("FAILED_PRECONDITION", {REASON: "protocol"}),
    ("UNAVAILABLE", {}),
)


def refusal(status: str, trailers: Mapping[str, str]) -> dict[str, Any]:
    """How a device takes a status with these trailing metadata."""
    error = failure("server", status, "details", trailers)
    transfer = error if isinstance(error, TransferError) else None
    return {
        "status": status,
        "metadata": dict(trailers),
        "code": error.code,
        "ends": transfer is None or error.code == "protocol",
        "passes": transfer is not None and is_passing(transfer),
        "retry_after": transfer.retry_after if transfer else None,
    }
