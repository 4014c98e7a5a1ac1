"""What became of a call that failed: who can act on it, and whether trying again helps."""

from collections.abc import Mapping

from fedloom.core.contract import REASON, RETRY_AFTER
from fedloom.core.errors import FedloomError, IdentityError, SplitError, TransferError

__all__ = ["failure", "is_passing", "passing"]

_IDENTITY = frozenset(
    (
        *("not-enrolled", "revoked", "wrong-federation", "tls", "csr", "name"),
        *("token-unknown", "token-expired", "token-used", "token-forged"),
    )
)
_PASSING = frozenset(
    (
        *("unreachable", "busy", "disk-full"),
        *("chunk-order", "chunk-crc", "too-short", "digest"),
    )
)
_FULL = frozenset(("busy", "memory", "no-path"))
"""Why a far side cannot be had now."""
_LATER = 10.0
_ANOTHER_VERSION = frozenset(("UNIMPLEMENTED",))


def is_passing(error: TransferError) -> bool:
    """Whether the same again may go well."""
    return error.retry_after is not None or error.code in _PASSING


def passing(error: FedloomError) -> TransferError | None:
    """A task's error where the same task may go well later; None where it will not."""
    if isinstance(error, SplitError) and error.code in _FULL:
        return TransferError(str(error), code="busy", retry_after=_LATER)
    return error if isinstance(error, TransferError) and is_passing(error) else None


def failure(
    server: str, status: str, details: str, trailers: Mapping[str, str]
) -> IdentityError | TransferError:
    """A gRPC status as one of our errors.

    Args:
        server: whom the call was for, for the message.
        status: name of the status, such as ``UNAVAILABLE``.
        details: its text.
        trailers: trailing metadata; ``fedloom-reason`` is there where the server itself refused.
    """
    reason, wait = trailers.get(REASON, ""), _seconds(trailers.get(RETRY_AFTER, ""))
    if reason in _IDENTITY:
        return IdentityError(details or reason, code=reason)
    if reason:
        return TransferError(details or reason, code=reason, retry_after=wait)
    if status in _ANOTHER_VERSION:
        text = f"{server} does not know this call: it runs another version of fedloom"
        return TransferError(text, code="protocol")
    text = f"no answer from {server}: {_words(status, details)}"
    return TransferError(text, code="unreachable", retry_after=wait or 0.0)


def _seconds(text: str) -> float | None:
    try:
        return max(float(text), 0.0) if text else None
    except ValueError:
        return None


def _words(status: str, details: str) -> str:
    """The reason in few words; gRPC's own texts name addresses, files and lines of its code."""
    lowered = details.lower()
    if "certificate_verify_failed" in lowered:
        return (
            "its certificate is not of the authority that this device trusts (another server, a "
            "network that intercepts connections, or a wrong clock on this device)"
        )
    for part, words in _KNOWN.items():
        if part in lowered:
            return words
    first = next(iter(details.splitlines()), "")
    return f"{first[:160]} ({status.lower().replace('_', ' ')})"


_KNOWN = {
    "connection refused": "nothing listens there",
    "handshake": "the TLS handshake failed (no TLS there, or this device's certificate has ended)",
    "name resolution": "its name cannot be resolved",
    "dns": "its name cannot be resolved",
    "no route": "there is no route to it",
    "network is unreachable": "there is no network",
    "timed out": "the connection timed out",
    "deadline exceeded": "it took too long",
    "socket closed": "the connection was cut",
    "connection reset": "the connection was cut",
    "goaway": "the server is closing connections",
}
