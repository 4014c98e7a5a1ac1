"""Certificate requests (PKCS #10, RFC 2986): what a device sends, and what a server makes of it."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.core.errors import IdentityError

__all__ = ["make_request", "read_request"]

_LARGEST = 16384


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request (DER) for a certificate of `key`; its signature proves who holds the key.

    It names nobody: the server names the client by its token or its certificate.
    """
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def read_request(csr: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a request (DER) whose signature proves that its sender holds it.

    Raises:
        IdentityError: with code ``csr`` and what is wrong.
    """
    if len(csr) > _LARGEST:
        raise IdentityError(f"certificate request: more than {_LARGEST} bytes", code="csr")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        proved = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError("certificate request: not a PKCS #10 in DER", code="csr") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise IdentityError("certificate request: the key is not P-256", code="csr")
    if not proved:
        raise IdentityError("certificate request: its signature does not hold", code="csr")
    return key
