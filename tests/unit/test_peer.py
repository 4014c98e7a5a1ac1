from datetime import timedelta
from pathlib import Path

import pytest

from fedloom.core.errors import IdentityError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority, Issued
from fedloom.security.peer import Peer, peer_of
from fedloom.security.request import make_request

NOW = certs.utc_now().replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.sign(make_request(certs.new_key()), "Foo <f@x.org>", hours=2, now=NOW)


def showing(certificate: bytes | None, version: bytes = b"TLSv1.3") -> dict[str, list[bytes]]:
    """An auth context as grpcio 1.85 gives it."""
    context = {"transport_security_type": [b"ssl"], "ssl_tls_version": [version]}
    return context if certificate is None else {**context, "x509_pem_cert": [certificate]}


def refusal(context: dict[str, list[bytes]], federation: str) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        peer_of(context, federation, now=NOW)
    return caught.value


def test_a_certificate_names_its_client(authority: Authority, issued: Issued) -> None:
    peer = peer_of(showing(issued.certificate), authority.federation)
    assert peer == Peer("Foo <f@x.org>", issued.serial, issued.not_before)
    assert peer.issued == NOW  # not_before is 5 minutes earlier


def test_it_is_read_once(authority: Authority, issued: Issued) -> None:
    context = showing(issued.certificate)
    assert peer_of(context, authority.federation) is peer_of(context, authority.federation)


def test_no_certificate(authority: Authority) -> None:
    error = refusal(showing(None), authority.federation)
    assert (error.code, str(error)) == ("not-enrolled", "no client certificate: enrol first")


def test_no_client(authority: Authority) -> None:
    for certificate in (authority.server_identity().certificate, authority.certificate):
        error = refusal(showing(certificate), authority.federation)
        assert error.code == "not-enrolled"
        assert "not a client's certificate" in str(error)
    assert "not a certificate" in str(refusal(showing(b"junk"), authority.federation))


def test_another_federation(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open(tmp_path)
    theirs = other.sign(make_request(certs.new_key()), "a", hours=1).certificate
    error = refusal(showing(theirs), authority.federation)
    assert error.code == "wrong-federation"
    assert other.federation in str(error)


def test_a_certificate_that_ended_while_its_connection_was_open(
    authority: Authority, issued: Issued
) -> None:
    context = showing(issued.certificate)
    peer_of(context, authority.federation, now=NOW + 2 * HOUR)
    with pytest.raises(IdentityError, match="the certificate ended") as caught:
        peer_of(context, authority.federation, now=NOW + 2 * HOUR + timedelta(seconds=1))
    assert caught.value.code == "not-enrolled"


def test_an_older_tls(authority: Authority, issued: Issued) -> None:
    error = refusal(showing(issued.certificate, b"TLSv1.2"), authority.federation)
    assert error.code == "tls"
