"""Who is calling: what a connection's certificate says, once TLS has verified it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from fedloom.core.errors import IdentityError
from fedloom.security import certificates as certs
from fedloom.security.floor import check_version
from fedloom.security.names import read_client

__all__ = ["Peer", "peer_of"]

_KEPT = 4096


@dataclass(frozen=True)
class Peer:
    """A client whose certificate holds.

    Attributes:
        client: its name.
        serial: number of its certificate.
        not_before: begin of its certificate, UTC; `certificates.CLOCK_SKEW` before it was made.
    """

    client: str
    serial: int
    not_before: datetime

    @property
    def issued(self) -> datetime:
        """When its certificate was made, UTC, in whole seconds: what a revocation compares."""
        return self.not_before + certs.CLOCK_SKEW


@dataclass(frozen=True)
class _Read:
    """What is read of a certificate, once for all calls that show it."""

    federation: str
    peer: Peer
    not_after: datetime


def peer_of(
    auth_context: Mapping[str, Sequence[bytes]], federation: str, *, now: datetime | None = None
) -> Peer:
    """Return who makes a call, from gRPC's auth context of its connection.

    The handshake has verified the signature; the end of the certificate is looked at again,
    since a connection may outlive it.

    Args:
        auth_context: what gRPC says of the connection.
        federation: whose clients are let in.
        now: the present, UTC; asked of the clock by default.

    Raises:
        IdentityError: with code ``tls`` (no TLS 1.3), ``not-enrolled`` (no certificate, not a
            client's, or ended) or ``wrong-federation``.
    """
    check_version(auth_context)
    shown = list(auth_context.get("x509_pem_cert", ()))
    if not shown:
        raise IdentityError("no client certificate: enrol first", code="not-enrolled")
    found = _read(bytes(shown[0]))
    if found.federation != federation:
        text = f"the certificate is of federation {found.federation}, this is {federation}"
        raise IdentityError(text, code="wrong-federation")
    if found.not_after < (now or certs.utc_now()):
        text = f"the certificate ended {found.not_after:%Y-%m-%d %H:%M} UTC: enrol again"
        raise IdentityError(text, code="not-enrolled")
    return found.peer


@functools.lru_cache(maxsize=_KEPT)
def _read(pem: bytes) -> _Read:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        allowed, names = certs.uses(certificate), certs.uris(certificate)
    except ValueError as error:
        raise IdentityError("not a certificate", code="not-enrolled") from error
    named = read_client(names[0]) if len(names) == 1 else None
    if allowed != {certs.CLIENT_USE} or named is None:
        raise IdentityError("not a client's certificate: enrol first", code="not-enrolled")
    federation, client = named
    peer = Peer(client, certificate.serial_number, certificate.not_valid_before_utc)
    return _Read(federation, peer, certificate.not_valid_after_utc)
