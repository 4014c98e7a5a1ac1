"""Who a device is: its key, its certificate, and the federation that it belongs to.

One folder, which only its owner may enter:

``key.pem``          made on the device; it never leaves it
``client.pem``       the certificate, renewed while it is in force
``authority.pem``    whom the device trusts
``federation.json``  federation, client, host and port; written last: with it the device is enrolled
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedloom.core.errors import IdentityError
from fedloom.security import certificates as certs
from fedloom.security.names import check_name, read_client
from fedloom.security.private import make_folder, read_private, write_file
from fedloom.security.request import make_request

__all__ = ["Identity"]

_KEY = "key.pem"
_CLIENT = "client.pem"
_AUTHORITY = "authority.pem"
_FEDERATION = "federation.json"


@dataclass(frozen=True)
class Identity:
    """A device's identity: first a key alone (`create`), once it is enrolled the whole (`load`).

    Attributes:
        folder: where it lies.
        key: PKCS #8, PEM.
        certificate: PEM; empty before it is enrolled, as is all that follows.
        authority: PEM.
        federation: a UUID.
        client: the device's name in the federation.
        host: name or address of the server.
        port: where enrolled clients work.
        enrol_port: where it gets a certificate once the one it has ended.
    """

    folder: Path
    key: bytes = field(repr=False)
    certificate: bytes = b""
    authority: bytes = b""
    federation: str = ""
    client: str = ""
    host: str = ""
    port: int = 0
    enrol_port: int = 0

    @staticmethod
    def create(folder: Path) -> "Identity":
        """Begin an identity: make a key in a folder, or take the one that lies there.

        Raises:
            IdentityError: the key there cannot be read, or others may read it.
        """
        make_folder(folder)
        path = folder / _KEY
        if not path.exists():
            write_file(path, certs.key_to_pem(certs.new_key()))
        return Identity(folder, _read_key(path))

    @staticmethod
    def load(folder: Path) -> "Identity":
        """Read the identity of an enrolled device.

        Raises:
            IdentityError: the device is not enrolled, or the files do not belong together
                (code ``not-enrolled``).
        """
        try:
            facts = json.loads((folder / _FEDERATION).read_text(encoding="utf-8"))
            key = _read_key(folder / _KEY)
            certificate = (folder / _CLIENT).read_bytes()
            authority = (folder / _AUTHORITY).read_bytes()
            client, host = str(facts["client"]), str(facts["host"])
            port, enrol_port = int(facts["port"]), int(facts.get("enrol_port", 0))
        except FileNotFoundError as error:
            text = f"{folder}: not enrolled ({Path(error.filename).name} is missing): join first"
            raise IdentityError(text, code="not-enrolled") from error
        except OSError as error:
            raise IdentityError(f"{error.filename}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            text = f"{folder / _FEDERATION}: damaged ({error}): join again"
            raise IdentityError(text, code="not-enrolled") from error
        federation = _check(folder, key, certificate, authority, client)
        return Identity(
            *(folder, key, certificate, authority, federation, client, host, port), enrol_port
        )

    @property
    def not_after(self) -> datetime:
        """End of the certificate, UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def csr(self) -> bytes:
        """Return a certificate request (PKCS #10, DER); its signature proves who holds the key."""
        return make_request(certs.key_from_pem(self.key, self.folder / _KEY))

    def save(
        self,
        certificate: bytes,
        authority: bytes,
        *,
        client: str,
        host: str,
        port: int,
        enrol_port: int = 0,
    ) -> "Identity":
        """Write down what enrolment brought, and return the enrolled identity.

        Args:
            certificate: of this key, PEM.
            authority: that signed it, PEM; the caller has found it to be the pinned one.
            client: the name that was given.
            host: name or address of the server.
            port: where enrolled clients work.
            enrol_port: where a new certificate can be had after the old one ended.

        Raises:
            IdentityError: they do not belong together; nothing is written.
        """
        federation = _check(self.folder, self.key, certificate, authority, client)
        where = {"host": host, "port": port, "enrol_port": enrol_port}
        facts = {"federation": federation, "client": client, **where}
        (self.folder / _FEDERATION).unlink(missing_ok=True)  # not enrolled while they differ
        write_file(self.folder / _AUTHORITY, authority)
        write_file(self.folder / _CLIENT, certificate)
        write_file(self.folder / _FEDERATION, json.dumps(facts, indent=1).encode() + b"\n")
        return Identity(
            *(self.folder, self.key, certificate, authority, federation, client, host, port),
            enrol_port,
        )

    def renewed(self, certificate: bytes) -> "Identity":
        """Write a new certificate (PEM) in the old one's place, and return the identity with it.

        Raises:
            IdentityError: it is not of this key, name and federation; nothing is written.
        """
        _check(self.folder, self.key, certificate, self.authority, self.client)
        write_file(self.folder / _CLIENT, certificate)
        return replace(self, certificate=certificate)

    def renew_due(self, now: datetime) -> bool:
        """Whether two thirds of the certificate's life have passed at `now` (UTC)."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        made = certificate.not_valid_before_utc + certs.CLOCK_SKEW
        return now - made >= (certificate.not_valid_after_utc - made) * 2 / 3


def _read_key(path: Path) -> bytes:
    key = read_private(path)
    certs.key_from_pem(key, path)
    return key


def _check(folder: Path, key: bytes, certificate: bytes, authority: bytes, client: str) -> str:
    """The federation in which `certificate` gives `client`, who holds `key`, its name."""
    try:
        leaf = x509.load_pem_x509_certificate(certificate)
        root = x509.load_pem_x509_certificate(authority)
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        text = f"{folder}: the certificate is not one that its authority signed: join again"
        raise IdentityError(text, code="not-enrolled") from error
    federation, found = certs.federation_of(root), [read_client(uri) for uri in certs.uris(leaf)]
    mine = certs.key_from_pem(key, folder / _KEY).public_key()
    if federation is None or leaf.public_key() != mine or found != [(federation, client)]:
        text = f"{folder}: the certificate is not of this key, name and federation: join again"
        raise IdentityError(text, code="not-enrolled")
    check_name(client)
    return federation
