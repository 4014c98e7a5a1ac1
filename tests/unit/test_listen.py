import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from small_server import Context, opened

from fedloom.core.errors import IdentityError, RunError
from fedloom.security import certificates as certs
from fedloom.security.request import make_request
from fedloom.server.federation import Federation
from fedloom.server.listen import Anyone, Certified, bind, new_server, own_names


def said(value: str) -> Context:
    return Context(metadata=(("user-agent", "x"), ("fedloom-client", value)))


def test_without_tls_everybody_is_who_they_say() -> None:
    assert Anyone()(said("ann")) == "ann"
    assert Anyone()(said("J%C3%BCrgen%20%2F")) == "Jürgen /"
    with pytest.raises(IdentityError, match="gives the metadata 'fedloom-client'") as caught:
        Anyone()(Context())
    assert caught.value.code == "not-enrolled"
    with pytest.raises(IdentityError, match="at least one letter"):
        Anyone()(said("%20"))


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path) as found:
        yield found


def showing(federation: Federation, name: str, *, ago: timedelta = timedelta(0)) -> Context:
    now = certs.utc_now() - ago
    issued = federation.authority.sign(make_request(certs.new_key()), name, hours=24, now=now)

    class Paper:
        serial = issued.serial

    tokens = federation.register.tokens
    if federation.register.client(name) is None:
        tokens.redeem(*tokens.create(), name=name, key=name, issue=lambda _: Paper())
    auth = {
        "transport_security_type": [b"ssl"],
        "ssl_tls_version": [b"TLSv1.3"],
        "x509_pem_cert": [issued.certificate],
    }
    return Context(auth)


def test_a_certificate_counts_as_long_as_its_client_is_let_in(federation: Federation) -> None:
    door = Certified(federation.authority.federation, federation.register)
    context = showing(federation, "ann", ago=timedelta(minutes=1))
    assert door(context) == "ann"
    federation.register.revoke("ann")
    with pytest.raises(IdentityError, match="was revoked") as caught:
        door(context)
    assert caught.value.code == "revoked"


def test_another_federations_certificate_does_not(federation: Federation) -> None:
    door = Certified("another", federation.register)
    with pytest.raises(IdentityError, match="is of federation") as caught:
        door(showing(federation, "ann"))
    assert caught.value.code == "wrong-federation"


def test_a_port_that_is_taken_is_named() -> None:
    async def go(host: str, port: int) -> int:
        return bind(new_server(), host, port, None)

    assert asyncio.run(go("127.0.0.1", 0)) > 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"127.0.0.1:{port}: cannot listen: Address already"):
            asyncio.run(go("127.0.0.1", port))
    with pytest.raises(RunError, match=r"192\.0\.2\.1:0: cannot listen: Cannot assign"):
        asyncio.run(go("192.0.2.1", 0))


def test_the_names_of_a_server() -> None:
    dialled, names = own_names("fed.example.org")
    assert dialled == names[0] == "fed.example.org"
    assert f"{socket.gethostname()}.local" in names
    assert own_names("10.0.0.7")[1][0] == "10.0.0.7"
    assert "" not in own_names("")[1]
