"""The certificates of a federation: how each kind is made, and how one is read.

Keys are ECDSA over P-256 with SHA-256 throughout. X.509: RFC 5280.
"""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedloom.core.errors import IdentityError
from fedloom.security.names import read_federation

__all__ = [
    "AUTHORITY_EXTENSION",
    "CLIENT_USE",
    "CLOCK_SKEW",
    "SERVER_NAME",
    "SERVER_USE",
    "federation_of",
    "key_from_pem",
    "key_to_pem",
    "named",
    "new_key",
    "pin_of",
    "sign",
    "template",
    "uris",
    "uses",
    "utc_now",
]

SERVER_NAME = "fedloom-server"
"""The name that every server's certificate holds, whatever the address it is reached at."""

CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin so long before they are made: a device's clock may be behind."""

AUTHORITY_EXTENSION = x509.ObjectIdentifier(
    f"2.25.{uuid.UUID('5f0d3c1e-7a64-4c0b-9d55-2f3b8e6a1c47').int}"
)
"""In a server's certificate: that of its authority (DER), for those who know only its pin."""

CLIENT_USE = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_USE = ExtendedKeyUsageOID.SERVER_AUTH


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PKCS #8 PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(data: bytes, where: object) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key.

    Raises:
        IdentityError: there is none in `data`; `where` is named.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{where}: not a private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise IdentityError(f"{where}: not a P-256 key")
    return key


def pin_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo, 64 hex digits (RFC 7469, 2.4)."""
    key = certificate.public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def template(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime
) -> x509.CertificateBuilder:
    """Return a certificate of `key` with a random serial number; its end and signature are due."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
    )


def named(name: str) -> x509.Name:
    """Return a distinguished name that consists of a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def uris(certificate: x509.Certificate) -> Sequence[str]:
    """Return the URIs among a certificate's alternative names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def uses(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """Return what a certificate may be used for (its extended key usages)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(found.value)


def federation_of(authority: x509.Certificate) -> str | None:
    """Return the federation whose authority's certificate this is, or None if it is of none."""
    found = [read_federation(uri) for uri in uris(authority)]
    return found[0] if len(found) == 1 else None


def utc_now() -> datetime:
    """Return the present time, UTC."""
    return datetime.now(UTC)


def sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return a finished certificate."""
    return builder.sign(key, hashes.SHA256())
