"""Know a federation's server by the pin of a join token, before anything secret is said.

The server's certificate carries its authority's. One connection reads it, unverified; what
proves it is the pin: it is of the authority's key, and that key signed the certificate, in which
the authority's lies. Nothing is trusted at the first sight.
"""

import hmac
import socket
import ssl
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.core.errors import IdentityError, TransferError
from fedloom.security import certificates as certs

__all__ = ["check_leaf", "fetch_authority"]


def fetch_authority(host: str, port: int, pin: str, *, timeout: float = 10.0) -> bytes:
    """Return the certificate (PEM) of the authority behind a server, which `pin` names.

    Args:
        host: name or address of the server.
        port: any of its TLS ports.
        pin: SHA-256 of the authority's SubjectPublicKeyInfo, 64 hex digits.
        timeout: seconds, for the connection and again for the handshake.

    Raises:
        TransferError: nobody answers there.
        IdentityError: who answers is not a server of the pinned authority (code ``tls``).
    """
    where = f"{host}:{port}"
    try:
        leaf = _leaf_of(host, port, timeout)
    except ssl.SSLEOFError as error:
        raise TransferError(f"{where}: hung up in the handshake", retry_after=5.0) from error
    except ssl.SSLError as error:
        text = f"{where}: no TLS 1.3 is spoken there ({error.reason or error})"
        raise IdentityError(text, code="tls") from error
    except (OSError, UnicodeError) as error:
        raise TransferError(f"{where}: no answer ({error})", retry_after=5.0) from error
    return check_leaf(leaf, pin, where, now=certs.utc_now())


def check_leaf(leaf: bytes, pin: str, where: str, *, now: datetime) -> bytes:
    """Return the certificate (PEM) of the authority that a server's certificate (DER) carries.

    Args:
        leaf: the server's certificate, from a handshake that it proved to hold the key of.
        pin: SHA-256 of the authority's SubjectPublicKeyInfo, 64 hex digits.
        where: the server, for messages.
        now: the present, UTC.

    Raises:
        IdentityError: it is not of the pinned authority, or not in force (code ``tls``).
    """
    server, authority = _read(leaf, where)
    if not hmac.compare_digest(certs.pin_of(authority), pin):
        text = (
            f"{where}: not the server that the join token is of (its authority's pin is "
            f"{certs.pin_of(authority)}): wrong address, an old token, or somebody in between"
        )
        raise IdentityError(text, code="tls")
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        text = f"{where}: its certificate was not signed by the authority that it names"
        raise IdentityError(text, code="tls") from error
    if certs.SERVER_USE not in certs.uses(server):
        raise IdentityError(f"{where}: its certificate is not a server's", code="tls")
    _check_dates(server, where, now)
    _check_dates(authority, where, now)
    return authority.public_bytes(Encoding.PEM)


def _leaf_of(host: str, port: int, timeout: float) -> bytes:
    """The certificate (DER) that answers at an address, which nobody has verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout) as plain,
        context.wrap_socket(plain, server_hostname=certs.SERVER_NAME) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _read(leaf: bytes, where: str) -> tuple[x509.Certificate, x509.Certificate]:
    """A server's certificate and, from in it, its authority's."""
    try:
        server = x509.load_der_x509_certificate(leaf)
        found = server.extensions.get_extension_for_oid(certs.AUTHORITY_EXTENSION).value
        data = found.value if isinstance(found, x509.UnrecognizedExtension) else b""
        return server, x509.load_der_x509_certificate(data)
    except (ValueError, x509.ExtensionNotFound) as error:
        text = f"{where}: a TLS server, but not one of fedloom"
        raise IdentityError(text, code="tls") from error


def _check_dates(certificate: x509.Certificate, where: str, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        text = (
            f"{where}: its certificate holds from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} "
            f"UTC, and this device's clock says {now:%Y-%m-%d %H:%M}"
        )
        raise IdentityError(text, code="tls")
