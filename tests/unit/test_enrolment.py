import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from small_server import Aborted, Context, opened

from fedloom.core.errors import IdentityError
from fedloom.protos import federation_pb2 as pb
from fedloom.security import certificates as certs
from fedloom.security.names import client_uri
from fedloom.security.request import make_request
from fedloom.server.enrolment import EnrolmentCalls
from fedloom.server.federation import Federation

SECURED = {"transport_security_type": [b"ssl"], "ssl_tls_version": [b"TLSv1.3"]}
KEY = certs.new_key()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path) as found:
        yield found


@pytest.fixture
def calls(federation: Federation) -> EnrolmentCalls:
    return EnrolmentCalls(federation.authority, federation.register, 2.0, 7441)


def request_of(federation: Federation, **changes: Any) -> pb.EnrolRequest:
    id, secret = federation.register.tokens.create()
    fields = {"protocol": 1, "token_id": id, "secret": secret, "name": "ann"}
    return pb.EnrolRequest(**{**fields, "csr": make_request(KEY), **changes})


def answer(calls: EnrolmentCalls, request: pb.EnrolRequest, auth: Any = SECURED) -> pb.EnrolReply:
    sent = calls._enrol(request.SerializeToString(), Context(auth))
    reply: pb.EnrolReply = pb.EnrolReply.FromString(asyncio.run(sent))
    return reply


def test_a_token_brings_a_certificate_of_ones_name(
    federation: Federation, calls: EnrolmentCalls
) -> None:
    request = request_of(federation)
    reply = answer(calls, request)
    found = (reply.federation, reply.client, reply.port)
    assert found == (federation.authority.federation, "ann", 7441)
    leaf = x509.load_pem_x509_certificate(reply.certificate)
    assert certs.uris(leaf) == [client_uri(reply.federation, "ann")]
    assert leaf.public_key() == KEY.public_key()
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc - certs.CLOCK_SKEW
    assert life.total_seconds() == 2 * 3600
    client = federation.register.client("ann")
    assert client is not None
    assert client.serial == f"{leaf.serial_number:x}"
    assert answer(calls, request).client == "ann"  # the answer was lost: the same key asks again


def test_refusals_are_counted_and_told(federation: Federation, calls: EnrolmentCalls) -> None:
    for changes, auth, code in (
        ({"protocol": 2}, SECURED, "protocol"),
        ({"csr": b"junk"}, SECURED, "csr"),
        ({"secret": "x" * 32}, SECURED, "token-forged"),
        ({}, {}, "tls"),
        ({}, {**SECURED, "ssl_tls_version": [b"TLSv1.2"]}, "tls"),
    ):
        with pytest.raises(Aborted) as caught:
            answer(calls, request_of(federation, **changes), auth)
        assert caught.value.trailers == {"fedloom-reason": code}
    assert calls.counting.refused == {"protocol": 1, "csr": 1, "token-forged": 1, "tls": 2}
    assert federation.register.clients() == []


def test_a_key_is_proved_before_a_token_is_used(
    federation: Federation, calls: EnrolmentCalls
) -> None:
    request = request_of(federation)
    spoiled = pb.EnrolRequest()
    spoiled.CopyFrom(request)
    spoiled.csr = request.csr[:-1] + bytes([request.csr[-1] ^ 1])
    with pytest.raises(IdentityError, match="certificate request"):
        calls.enrol(spoiled)
    assert calls.enrol(request)[0] == "ann"
