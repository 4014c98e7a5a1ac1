"""Split sessions under mutual TLS: whose they are, and whom nobody lets in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from split_server import WIDTH, Scaling, serving

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel, Credentials
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import IdentityError, TransferError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.request import make_request
from fedloom.server.database import Database
from fedloom.server.register import Register

PLAN = SpanPlan("tiny", 2, 4, torch.float64, "float64", "float64")
PACKING = packing_of(Lengths(((3, 2),), None))
HIDDEN = torch.ones(1, 5, WIDTH, dtype=torch.float64)


@dataclass(frozen=True)
class Federation:
    authority: Authority
    register: Register

    def credentials(self, name: str, *, known: bool = True) -> Credentials:
        """A device's key and certificate; enrolled, or only signed."""
        key = certs.new_key()
        issued = self.authority.sign(make_request(key), name, hours=1)
        if known:
            token = self.register.tokens.create()
            self.register.tokens.redeem(*token, name=name, key=name, issue=lambda _: issued)
        root = self.authority.certificate
        return Credentials(root, certs.key_to_pem(key), issued.certificate)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    database = Database.open(tmp_path / "state", exclusive=True)
    yield Federation(Authority.open(tmp_path / "authority"), Register(database))
    database.close()


def test_who_may_hold_a_session(federation: Federation) -> None:
    host = Scaling()
    with serving(host, authority=federation.authority, register=federation.register) as server:
        channel = Channel("127.0.0.1", server.port, credentials=federation.credentials("pi"))
        far = RemoteFar(channel.split, PLAN)
        out = far.forward(1, HIDDEN, PACKING, train=True)
        assert [name.partition("/")[0] for name, _ in host.held] == ["pi"]
        far.backward(1, out)

        stranger = federation.credentials("stranger", known=False)
        other = Channel("127.0.0.1", server.port, credentials=stranger)
        with pytest.raises(IdentityError, match="stranger") as refused:
            RemoteFar(other.split, PLAN).open()
        assert refused.value.code == "not-enrolled"

        nobody = Credentials(federation.authority.certificate)
        bare = Channel("127.0.0.1", server.port, credentials=nobody)
        with pytest.raises(TransferError, match="no answer"):
            RemoteFar(bare.split, PLAN, attempts=1).open()

        # A revocation takes effect within a stream.
        federation.register.revoke("pi")
        with pytest.raises(IdentityError) as revoked:
            far.forward(2, HIDDEN, PACKING, train=True)
        assert revoked.value.code == "revoked"
        for each in (channel, other, bare):
            each.close()
