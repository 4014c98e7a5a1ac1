"""A federation's own certificate authority: it certifies its servers and its clients."""

import fcntl
import ipaddress
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.core.errors import ConfigError, IdentityError, RunError, require
from fedloom.security import certificates as certs
from fedloom.security.names import authority_uri, check_name, client_uri
from fedloom.security.private import make_folder, read_private, write_file
from fedloom.security.request import read_request

__all__ = ["Authority", "Issued", "KeyPair"]

_FILE = "authority.pem"
_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=825)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True)
class KeyPair:
    """A key and the certificate of it.

    Attributes:
        key: PKCS #8, PEM, not encrypted.
        certificate: PEM.
    """

    key: bytes = field(repr=False)
    certificate: bytes


@dataclass(frozen=True)
class Issued:
    """A certificate that a client was given.

    Attributes:
        certificate: PEM.
        serial: its number, positive, below 2^159.
        not_before: its begin, UTC: `certificates.CLOCK_SKEW` before it was made.
        not_after: its end, UTC.
    """

    certificate: bytes
    serial: int
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class Authority:
    """The authority of one federation; get it by `open`.

    Attributes:
        federation: a UUID, the federation's name for all time.
        certificate: PEM; what everybody in the federation trusts.
        pin: SHA-256 of its SubjectPublicKeyInfo, 64 hex digits: what a join token carries.
    """

    federation: str
    certificate: bytes
    pin: str
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    _certificate: x509.Certificate = field(repr=False)

    @staticmethod
    def open(folder: Path) -> "Authority":
        """Load the authority that lies in a folder, or make one there.

        Key and certificate lie in one file, which is there whole or not at all; two processes
        that open an empty folder at once get the same authority.

        Raises:
            RunError: the file is damaged.
            IdentityError: others than its owner may read the file.
        """
        make_folder(folder)
        path = folder / _FILE
        with _alone(folder):
            if not path.exists():
                write_file(path, _new_authority())
            return _load(path)

    def server_identity(self, names: Sequence[str] = (), *, now: datetime | None = None) -> KeyPair:
        """Make a fresh key and certificate for a server of this federation.

        Args:
            names: names and addresses that it is dialled by, beside ``fedloom-server``,
                ``localhost`` and the loopback addresses.
            now: time that the certificate is made at; the present by default.

        Raises:
            ConfigError: a name is neither a host name nor an IP address.
        """
        key = certs.new_key()
        public = self._certificate.public_bytes(Encoding.DER)
        builder = (
            self._leaf(certs.named(certs.SERVER_NAME), key.public_key(), now or certs.utc_now())
            .not_valid_after(self._end((now or certs.utc_now()) + _SERVER_LIFE))
            .add_extension(x509.ExtendedKeyUsage([certs.SERVER_USE]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_server_names(names)), critical=False)
            .add_extension(
                x509.UnrecognizedExtension(certs.AUTHORITY_EXTENSION, public), critical=False
            )
        )
        leaf = certs.sign(builder, self._key).public_bytes(Encoding.PEM)
        return KeyPair(certs.key_to_pem(key), leaf)

    def sign(self, csr: bytes, client: str, *, hours: float, now: datetime | None = None) -> Issued:
        """Certify a client's key under a name that the caller has found to be its own.

        Args:
            csr: PKCS #10, DER; of it only the key is used.
            client: the client's name.
            hours: life of the certificate, from now.
            now: time that the certificate is made at; the present by default.

        Raises:
            IdentityError: the request does not hold (code ``csr``), or nobody may be called so
                (code ``name``).
        """
        check_name(client)
        key = read_request(csr)
        require(hours > 0, "hours", hours, "above 0")
        made = now or certs.utc_now()
        uri = x509.UniformResourceIdentifier(client_uri(self.federation, client))
        builder = (
            self._leaf(certs.named("fedloom client"), key, made)
            .not_valid_after(self._end(made + timedelta(hours=hours)))
            .add_extension(x509.ExtendedKeyUsage([certs.CLIENT_USE]), critical=False)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        )
        leaf = certs.sign(builder, self._key)
        return Issued(
            leaf.public_bytes(Encoding.PEM),
            leaf.serial_number,
            leaf.not_valid_before_utc,
            leaf.not_valid_after_utc,
        )

    def _leaf(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.CertificateBuilder:
        """What every certificate but the authority's own has in common."""
        issuer = self._certificate.subject
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            certs.template(subject, issuer, key, now - certs.CLOCK_SKEW)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(of_issuer, critical=False)
        )

    def _end(self, wanted: datetime) -> datetime:
        """No certificate outlives its authority's."""
        return min(wanted, self._certificate.not_valid_after_utc)


def _new_authority() -> bytes:
    """A key and a certificate of its own, PEM, for a federation that did not exist before."""
    key, now, federation = certs.new_key(), certs.utc_now(), str(uuid.uuid4())
    subject = certs.named(f"fedloom {federation}")
    uri = x509.UniformResourceIdentifier(authority_uri(federation))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        certs.template(subject, subject, key.public_key(), now - certs.CLOCK_SKEW)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    )
    return certs.key_to_pem(key) + certs.sign(builder, key).public_bytes(Encoding.PEM)


def _load(path: Path) -> Authority:
    data = read_private(path)
    try:
        key = certs.key_from_pem(data, path)
        certificate = x509.load_pem_x509_certificate(data)
        federation = certs.federation_of(certificate)
        whole = federation is not None and certificate.public_key() == key.public_key()
    except (ValueError, IdentityError) as error:
        raise RunError(f"{path}: not an authority's key and certificate: {error}") from error
    if not whole or federation is None:
        raise RunError(f"{path}: the certificate is not this key's, or of no federation")
    pem = certificate.public_bytes(Encoding.PEM)
    return Authority(federation, pem, certs.pin_of(certificate), key, certificate)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from making an authority in the same folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _server_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """The names of a server's certificate, each once."""
    fixed = (certs.SERVER_NAME, "localhost", "127.0.0.1", "::1")
    return [_server_name(name) for name in dict.fromkeys([*fixed, *names])]


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _HOST.fullmatch(name):
            text = f"name of the server = {name!r}: a host name (ASCII) or an IP address"
            raise ConfigError(text) from None
    return x509.DNSName(name)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """An authority signs certificates, everybody else handshakes."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
