"""What a client may be called, and how its certificate says it."""

from urllib.parse import quote, unquote

from fedloom.core.errors import IdentityError

__all__ = ["LONGEST", "authority_uri", "check_name", "client_uri", "read_client", "read_federation"]

LONGEST = 200
"""Characters of a client's name."""

_SCHEME = "fedloom://"
_CLIENT = "/client/"


def check_name(text: str) -> str:
    """Return `text` unless no client may be called so.

    Raises:
        IdentityError: it is blank, longer than `LONGEST`, or holds a character that does not
            print (code ``name``).
    """
    if not text.strip():
        raise IdentityError(f"name = {text!r}: a name has at least one letter", code="name")
    if len(text) > LONGEST:
        about = f"{text[:20]!r}... ({len(text)} characters)"
        raise IdentityError(f"name = {about}: at most {LONGEST} characters", code="name")
    bad = next((c for c in text if not c.isprintable()), None)
    if bad is not None:
        raise IdentityError(
            f"name = {text[:40]!r}: {bad!r} does not print; only printable characters", code="name"
        )
    return text


def authority_uri(federation: str) -> str:
    """Return the URI by which an authority's certificate names its federation."""
    return f"{_SCHEME}{federation}"


def client_uri(federation: str, client: str) -> str:
    """Return the URI by which a client's certificate names it; any name survives it."""
    return f"{_SCHEME}{federation}{_CLIENT}{quote(client, safe='')}"


def read_federation(uri: str) -> str | None:
    """Return the federation of an authority's URI, or None for another URI."""
    rest = uri.removeprefix(_SCHEME)
    return rest if rest != uri and rest and "/" not in rest else None


def read_client(uri: str) -> tuple[str, str] | None:
    """Return federation and name of a client's URI, or None for another URI."""
    federation, found, name = uri.removeprefix(_SCHEME).partition(_CLIENT)
    client = unquote(name, errors="replace")
    if not found or not client or client_uri(federation, client) != uri:
        return None
    return federation, client
