import pytest

from fedloom.core.errors import IdentityError
from fedloom.security.floor import check_version, only_tls13

TLS = [b"ssl"]


def test_only_tls_1_3_passes() -> None:
    check_version({"transport_security_type": TLS, "ssl_tls_version": [b"TLSv1.3"]})


@pytest.mark.parametrize(
    ("context", "why"),
    [
        ({}, "not encrypted"),
        ({"transport_security_type": [b"insecure"]}, "not encrypted"),
        ({"transport_security_type": TLS}, "grpcio 1.85 or newer"),
        ({"transport_security_type": TLS, "ssl_tls_version": [b"TLSv1.2"]}, "is TLSv1.2: TLS 1.3"),
    ],
)
def test_the_rest_does_not(context: dict[str, list[bytes]], why: str) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        check_version(context)
    assert caught.value.code == "tls"


def test_the_list_of_suites_holds_none_that_an_ecdsa_key_can_do() -> None:
    environ: dict[str, str] = {}
    only_tls13(environ)
    (suites,) = environ.values()
    assert all(suite.startswith("ECDHE-RSA-") for suite in suites.split(":"))
