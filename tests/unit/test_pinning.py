from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom.core.errors import IdentityError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.certificates import utc_now as now
from fedloom.security.pinning import check_leaf
from fedloom.security.request import make_request


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("authority"))


def carrying(authority: Authority, carried: bytes) -> bytes:
    """A server's certificate by an authority, which claims another authority."""
    key, subject = certs.new_key(), certs.named("x")
    own = certs.template(subject, subject, key.public_key(), now() - timedelta(days=1))
    extension = x509.UnrecognizedExtension(certs.AUTHORITY_EXTENSION, carried)
    builder = own.not_valid_after(now() + timedelta(days=1)).add_extension(
        extension, critical=False
    )
    return certs.sign(builder, key).public_bytes(Encoding.DER)


def test_the_pinned_authority_is_taken_from_its_servers_certificate(authority: Authority) -> None:
    leaf = der(authority.server_identity().certificate)
    assert check_leaf(leaf, authority.pin, "h:1", now=now()) == authority.certificate


def test_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open(tmp_path)
    with pytest.raises(IdentityError, match=f"h:1: not the server .*{authority.pin}") as caught:
        check_leaf(der(authority.server_identity().certificate), other.pin, "h:1", now=now())
    assert caught.value.code == "tls"


def test_a_borrowed_authority_is_refused(authority: Authority) -> None:
    """Everybody knows the authority's certificate; only its key makes a server."""
    leaf = carrying(authority, der(authority.certificate))
    with pytest.raises(IdentityError, match="not signed by the authority that it names"):
        check_leaf(leaf, authority.pin, "h:1", now=now())


def test_any_other_certificate_is_refused(authority: Authority) -> None:
    client = authority.sign(make_request(certs.new_key()), "a", hours=1).certificate
    for leaf in (b"", b"junk", der(client), carrying(authority, b"junk")):
        with pytest.raises(IdentityError, match="h:1: a TLS server, but not one of fedloom"):
            check_leaf(leaf, authority.pin, "h:1", now=now())


@pytest.mark.parametrize("days", [-1, 826])
def test_out_of_its_time_the_clocks_are_named(authority: Authority, days: int) -> None:
    leaf, later = der(authority.server_identity().certificate), now() + timedelta(days=days)
    with pytest.raises(IdentityError, match=f"this device's clock says {later:%Y-%m-%d}"):
        check_leaf(leaf, authority.pin, "h:1", now=later)
