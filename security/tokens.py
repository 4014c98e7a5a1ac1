"""Join tokens: one line that lets one device into a federation.

``flt1.HOST:PORT.ID.SECRET.PIN``: where to enrol, which token this is, its secret, and the
SHA-256 of the authority's key, by which the device knows the server before it says the secret.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from fedloom.core.errors import IdentityError

__all__ = ["JoinToken", "digest", "matches", "new_id", "new_secret"]

_PREFIX = "flt1."
_ID = re.compile(r"[0-9A-Za-z]{4,64}")
_SECRET = re.compile(r"[0-9A-Za-z_-]{22,128}")  # 22 characters of 6 bits: at least 128
_PIN = re.compile(r"[0-9a-f]{64}")
_PLAIN_HOST = re.compile(r"[0-9A-Za-z._-]{1,253}")
_IPV6_HOST = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z._-]{1,32})?")


@dataclass(frozen=True)
class JoinToken:
    """What a device needs to enrol.

    Attributes:
        host: name or address of the server; an IPv6 address without brackets.
        port: where it enrols new clients.
        id: which token this is; not secret.
        secret: what proves it.
        pin: SHA-256 of the authority's SubjectPublicKeyInfo, 64 hex digits.

    Raises:
        IdentityError: one of them cannot be so. It is named; what could hold a secret that slipped
            into the wrong place is not shown.
    """

    host: str
    port: int
    id: str
    secret: str = field(repr=False)
    pin: str

    def __post_init__(self) -> None:
        host = _IPV6_HOST if ":" in self.host else _PLAIN_HOST
        _check(host.fullmatch(self.host), f"host = {self.host!r}: a host name or an IP address")
        _check(0 < self.port < 65536, f"port = {self.port}: 1 to 65535")
        _check(_ID.fullmatch(self.id), "id: 4 to 64 letters and digits")
        _check(_SECRET.fullmatch(self.secret), "secret: at least 22 letters, digits, _ and -")
        _check(_PIN.fullmatch(self.pin), "pin: 64 hex digits, in lower case")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_PREFIX}{host}:{self.port}.{self.id}.{self.secret}.{self.pin}"

    @staticmethod
    def parse(text: str) -> "JoinToken":
        """Read a token's text; white space around it does not matter.

        Raises:
            IdentityError: naming what is wrong with it, without showing the secret.
        """
        text = text.strip()
        _check(text.startswith(_PREFIX), f"it begins with {_PREFIX!r}")
        parts = text.removeprefix(_PREFIX).rsplit(".", 3)
        _check(len(parts) == 4, "flt1.HOST:PORT.ID.SECRET.PIN: a part is missing")
        address, name, secret, pin = parts
        _check(_PIN.fullmatch(pin), "pin: 64 hex digits, in lower case; is the token here whole?")
        host, _, port = address.rpartition(":")
        _check(re.fullmatch(r"[0-9]{1,5}", port), f"{address!r}: HOST:PORT expected after flt1")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        else:
            _check(":" not in host, f"{address!r}: an IPv6 address stands in brackets")
        return JoinToken(host, int(port), name, secret, pin)


def new_id() -> str:
    """Return an id that no other token has: 12 hex digits."""
    return secrets.token_hex(6)


def new_secret() -> str:
    """Return a secret of 192 random bits, 32 characters."""
    return secrets.token_urlsafe(24)


def digest(secret: str) -> str:
    """Return what a server stores of a secret: SHA-256, 64 hex digits.

    A fast hash is enough where the secret is random and long (NIST SP 800-63B, 5.1.2.2).
    """
    return hashlib.sha256(b"fedloom join token\0" + secret.encode()).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Whether `stored` is the digest of a secret, in the same time whether or not it is."""
    return hmac.compare_digest(digest(secret), stored)


def _check(holds: object, what: str) -> None:
    if not holds:
        raise IdentityError(f"join token: {what}", code="token-forged")
