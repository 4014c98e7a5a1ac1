import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.core.errors import IdentityError
from fedloom.security.certificates import new_key
from fedloom.security.request import make_request, read_request

EMPTY = x509.CertificateSigningRequestBuilder(x509.Name([]))


def test_a_request_brings_its_key() -> None:
    key = new_key()
    assert read_request(make_request(key)) == key.public_key()


def flipped(data: bytes, index: int) -> bytes:
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


GOOD = make_request(new_key())
OTHER_CURVE = EMPTY.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())
OTHER_KIND = EMPTY.sign(ed25519.Ed25519PrivateKey.generate(), None)


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (b"", "not a PKCS #10 in DER"),
        (b"-----BEGIN CERTIFICATE REQUEST-----", "not a PKCS #10 in DER"),
        (GOOD[:-1], "not a PKCS #10 in DER"),
        (GOOD + b"\0", "not a PKCS #10 in DER"),
        (b"\0" * 16385, "more than 16384 bytes"),
        (flipped(GOOD, len(GOOD) - 1), "its signature does not hold"),
        (OTHER_CURVE.public_bytes(Encoding.DER), "the key is not P-256"),
        (OTHER_KIND.public_bytes(Encoding.DER), "the key is not P-256"),
    ],
)
def test_a_request_that_does_not_hold(csr: bytes, why: str) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        read_request(csr)
    assert caught.value.code == "csr"
