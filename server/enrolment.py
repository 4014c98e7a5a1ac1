"""The one call of those who have no certificate yet."""

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedloom.core.types import ClientId
from fedloom.protos import federation_pb2 as pb
from fedloom.security.authority import Authority, Issued
from fedloom.security.floor import check_version
from fedloom.security.request import read_request
from fedloom.server.counting import Counting
from fedloom.server.messages import check_protocol, read
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.register import Register

__all__ = ["EnrolmentCalls"]

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""

log = logging.getLogger("fedloom.server")


@dataclass(eq=False)
class EnrolmentCalls:
    """The ``fedloom.v1.Enrolment`` service.

    Attributes:
        authority: signs certificates.
        register: whose tokens are redeemed.
        hours: life of a certificate.
        port: where the enrolled work.
        counting: what is counted for whoever watches.
    """

    authority: Authority
    register: Register
    hours: float
    port: int
    counting: Counting = field(default_factory=Counting)

    def handler(self) -> grpc.GenericRpcHandler:
        """The call by its name, for a server."""
        enrol = grpc.unary_unary_rpc_method_handler(self._enrol)
        return grpc.method_handlers_generic_handler("fedloom.v1.Enrolment", {"Enrol": enrol})

    async def _enrol(self, message: bytes, context: Context) -> bytes | None:
        try:
            check_version(context.auth_context())
            request = read(pb.EnrolRequest, message)
            check_protocol(request.protocol)
            client, issued = self.enrol(request)
        except TROUBLE as error:
            what, level = "enrolment refused", logging.WARNING
            await turn_away(context, error, self.counting, what=what, level=level)
            return None
        log.info("enrolled %s", client, extra={"client": client})
        reply = pb.EnrolReply(
            federation=self.authority.federation,
            client=client,
            certificate=issued.certificate,
            port=self.port,
        )
        return bytes(reply.SerializeToString())

    def enrol(self, request: pb.EnrolRequest) -> tuple[ClientId, Issued]:
        """Redeem a token; its holder's name and certificate. A known key needs no token.

        Raises:
            IdentityError: the token, the request or the name does not hold.
        """
        key = read_request(request.csr).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashlib.sha256(key).hexdigest()

        def issue(client: ClientId) -> Issued:
            return self.authority.sign(request.csr, client, hours=self.hours)

        tokens = self.register.tokens
        if not request.token_id:
            return tokens.readmit(key=digest, issue=issue)
        proposed, secret = request.name, request.secret
        return tokens.redeem(request.token_id, secret, name=proposed, key=digest, issue=issue)
