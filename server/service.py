"""The calls of enrolled clients. Every one of them asks first who is calling."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar

import grpc

from fedloom.core.errors import FedloomError, IdentityError, TransferError
from fedloom.core.types import ClientId
from fedloom.protos import federation_pb2 as pb
from fedloom.server.board import Board
from fedloom.server.contents import Content, Contents
from fedloom.server.intake import Intake
from fedloom.server.manifest import PROTOCOL
from fedloom.server.messages import result_of, task_of
from fedloom.server.refusing import refuse
from fedloom.server.register import Register
from fedloom.server.wire import RawChunk, read_part, write_chunk
from fedloom.security.peer import Peer

__all__ = ["Doorkeeper", "FederationCalls", "handlers"]

LONGEST_POLL = 60.0
STALLED = 30.0
"""Seconds without a byte after which an upload is cut."""

log = logging.getLogger("fedloom.server")
Context = Any  # grpc.aio.ServicerContext, which has no types
T = TypeVar("T")
