"""TLS 1.3 and nothing older, which gRPC has no setting for.

Every key of a federation is ECDSA. gRPC's list of cipher suites governs TLS 1.2 and older only
(those of 1.3 are fixed, RFC 8446, B.4), so a list of suites that want an RSA key leaves an older
handshake without a suite that both sides can do: it fails, in either role. The auth context's
``ssl_tls_version`` (grpcio 1.85 and newer) is checked beside it, call by call.
"""

import os
from collections.abc import Mapping, MutableMapping, Sequence

from fedloom.core.errors import IdentityError

__all__ = ["check_version", "only_tls13"]

_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_WANTS_RSA = "ECDHE-RSA-AES128-GCM-SHA256"


def only_tls13(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make this process's gRPC refuse what is older than TLS 1.3, in the handshake.

    To be called before anything imports grpc, which reads the environment as it is loaded.
    """
    environ[_VARIABLE] = _WANTS_RSA


def check_version(auth_context: Mapping[str, Sequence[bytes]]) -> None:
    """Raise unless a call came over TLS 1.3.

    Args:
        auth_context: what gRPC says of the connection.

    Raises:
        IdentityError: plaintext, an older TLS, or a gRPC that does not say (code ``tls``).
    """
    if list(auth_context.get("transport_security_type", ())) != [b"ssl"]:
        raise IdentityError("the connection is not encrypted: TLS 1.3 only", code="tls")
    versions = list(auth_context.get("ssl_tls_version", ()))
    if not versions:
        text = "gRPC does not say which TLS this is: the server needs grpcio 1.85 or newer"
        raise IdentityError(text, code="tls")
    if versions != [b"TLSv1.3"]:
        said = versions[0].decode("ascii", "replace")
        raise IdentityError(f"the connection is {said}: TLS 1.3 only", code="tls")
