"""The calls of enrolled clients. Every one of them asks first who is calling."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from fedloom.core.errors import TransferError
from fedloom.core.types import ClientId
from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Board, Offer
from fedloom.server.contents import Content, Contents
from fedloom.server.counting import Counting
from fedloom.server.failpoints import reach
from fedloom.server.gate import check_weight
from fedloom.server.intake import Intake
from fedloom.server.messages import (
    LONGEST_POLL,
    blob_of,
    check_protocol,
    device_of,
    holding_of,
    memory_of,
    patience_of,
    plain,
    read,
    result_of,
    task_of,
)
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.register import Register
from fedloom.server.uploading import chunks_of, header_of
from fedloom.server.wire import write_chunk

__all__ = ["Doorkeeper", "FederationCalls", "Renewing"]

_PACED = 500.0
"""Clients a second that are told to come back."""

_STRANGE = 10_000
"""Unknown kinds of devices that are remarked upon."""

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""
Message: TypeAlias = Any
"""A reply, which protobuf gives no useful type."""
Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes | None]]
Doorkeeper: TypeAlias = Callable[[Context], ClientId]
"""Says who makes a call, or raises `IdentityError`."""
Renewing: TypeAlias = Callable[[ClientId, bytes], bytes]
"""A certificate (PEM) for a client's request (DER)."""

log = logging.getLogger("fedloom.server")


@dataclass(eq=False)
class FederationCalls:
    """The ``fedloom.v1.Federation`` service.

    Attributes:
        doorkeeper: says who is calling.
        board: offers, and who is there.
        intake: takes results.
        register: what is known of clients.
        contents: what may be downloaded.
        job: address of the manifest.
        renewing: makes certificates; None without TLS.
        counting: what is counted for whoever watches.
        tiers: kinds of devices that the job tells apart.
    """

    doorkeeper: Doorkeeper
    board: Board
    intake: Intake
    register: Register
    contents: Contents
    job: Content
    renewing: Renewing | None = None
    counting: Counting = field(default_factory=Counting)
    tiers: Collection[str] = ()
    _strange: set[tuple[ClientId, str]] = field(default_factory=set)

    def handler(self) -> grpc.GenericRpcHandler:
        """The calls by name, for a server. Chunks are read and written without copies.

        Messages are read by the calls themselves: what gRPC makes of one that cannot be read
        looks like a mistake of the server's.
        """
        unary = grpc.unary_unary_rpc_method_handler
        calls: Mapping[str, grpc.RpcMethodHandler] = {
            "Renew": unary(self._answering(pb.RenewRequest, self._renew)),
            "CheckIn": unary(self._answering(pb.CheckInRequest, self._check_in)),
            "QueryUpload": unary(self._answering(pb.QueryUploadRequest, self._query_upload)),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
        }
        return grpc.method_handlers_generic_handler("fedloom.v1.Federation", calls)

    def _answering(self, kind: type[Any], call: Callable[..., Awaitable[Any]]) -> Unary:
        """A call as gRPC makes it: from bytes to bytes, refused where it raises."""

        async def handle(message: bytes, context: Context) -> bytes | None:
            try:
                client = self.doorkeeper(context)
                reply = await call(client, read(kind, message), context)
            except TROUBLE as error:
                await turn_away(context, error, self.counting)
                return None
            return bytes(reply.SerializeToString())

        return handle

    async def _renew(self, client: ClientId, request: pb.RenewRequest, _: Context) -> Message:
        if self.renewing is None:
            raise TransferError("this federation has no certificates", code="protocol")
        return pb.RenewReply(certificate=self.renewing(client, request.csr))

    async def _check_in(
        self, client: ClientId, request: pb.CheckInRequest, context: Context
    ) -> Message:
        check_protocol(request.protocol)
        if request.failed:
            self.intake.gave_up(client, request.failed, request.failure)
        elif request.failure:
            text = "%s cannot take part: %s"
            log.warning(text, client, plain(request.failure[:500]), extra={"client": client})
        if request.num_examples:
            check_weight(request.num_examples, self.intake.max_examples)
        reply = await self._work_for(client, request)
        self.doorkeeper(context)  # it may have been revoked while it waited
        return reply

    async def _work_for(self, client: ClientId, request: pb.CheckInRequest) -> pb.CheckInReply:
        self.counting.check_ins += 1
        examples, job = request.num_examples, blob_of(self.job)
        tier, memory = self._tier(client, request.device.tier), memory_of(request.device)
        self.board.seen(client, examples, tier=tier, memory=memory)
        self.register.seen(client, num_examples=examples, device=device_of(request.device))
        known = self.register.client(client)
        if known is not None and known.quarantined is not None:
            text = (
                f"quarantined after {known.strikes} refusals: {known.last_code}; ask the operator"
            )
            raise TransferError(text, code="quarantined", retry_after=LONGEST_POLL)
        if examples:
            offer = await self.board.wait(client, patience_of(request))
            self.board.seen(client, examples, tier=tier, memory=memory)
            if offer is not None:
                reach("task-given")
                return pb.CheckInReply(job=job, task=self._given(client, offer, request))
        if over := self.board.finished(client):
            return pb.CheckInReply(job=job, done=pb.Done(reason=over))
        if not examples:
            wait = pb.Wait(seconds=0.0, reason="say how many examples you hold")
            return pb.CheckInReply(job=job, wait=wait)
        return pb.CheckInReply(job=job, wait=pb.Wait(seconds=self._pace(), reason="no work yet"))

    def _given(self, client: ClientId, offer: Offer, request: pb.CheckInRequest) -> Message:
        """The task of an offer, with the model in the smallest form for what the client holds."""
        if offer.models is None:
            return task_of(offer)
        given = offer.models.given(client, holding_of(request), resync=request.resync)
        if given.resync:
            self.counting.resyncs += 1
            text = "%s: its model is not ours; it is sent all of it"
            log.warning(text, client, extra={"client": client})
        return task_of(offer, given)

    def _tier(self, client: ClientId, said: str) -> str:
        """The kind of device that a client is, if it is one that the job tells apart."""
        if not said or said in self.tiers:
            return said
        if (client, said) not in self._strange and len(self._strange) < _STRANGE:
            self._strange.add((client, said))
            text = "%s is of tier %r, which the job does not know: it does as the job says"
            log.warning(text, client, plain(said[:100]), extra={"client": client})
        return ""

    def _pace(self) -> float:
        """Seconds after which a client comes again, so that not all of many come at once."""
        there, _ = self.board.counts
        return there / _PACED if there > _PACED else 0.0

    async def _download(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            client = self.doorkeeper(context)
            request = read(pb.DownloadRequest, message)
            self.board.touch(client)
            for offset, crc32, data in self.contents.open(request.sha256, request.offset):
                yield write_chunk(offset, crc32, data)
                self.counting.bytes_down += len(data)
                self.doorkeeper(context)  # a revocation ends a stream, too
        except TROUBLE as error:
            await turn_away(context, error, self.counting)

    async def _upload(self, parts: AsyncIterator[bytes], context: Context) -> bytes | None:
        try:
            client = self.doorkeeper(context)
            header = await header_of(parts)
            self.board.touch(client)
            chunks = chunks_of(parts, lambda: self.doorkeeper(context), self.counting)
            result = result_of(header)
            seq = await self.intake.take(client, header.ticket, result, header.offset, chunks)
        except TROUBLE as error:
            await turn_away(context, error, self.counting)
            return None
        self.board.touch(client)
        self.counting.results += 1
        return bytes(pb.Receipt(seq=seq).SerializeToString())

    async def _query_upload(
        self, client: ClientId, request: pb.QueryUploadRequest, _: Context
    ) -> Message:
        seq = self.intake.acknowledged(client, request.ticket)
        if seq is not None:
            return pb.UploadStatus(receipt=pb.Receipt(seq=seq))
        return pb.UploadStatus(offset=self.intake.arrived(client, request.ticket))
