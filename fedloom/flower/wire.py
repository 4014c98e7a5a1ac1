"""A message of Flower's as bytes, in frames that fit in a call's messages."""

from typing import Any

from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as WireMessage
from google.protobuf.message import DecodeError

from fedloom.core.errors import TransferError

__all__ = ["frames", "packed", "unpacked"]

_FRAME = 256 << 10


def packed(message: Any) -> bytes:
    """A message as Flower writes it."""
    return bytes(message_to_proto(message).SerializeToString())


def unpacked(data: bytes) -> Any:
    """A message from its bytes.

    Raises:
        TransferError: they are none.
    """
    try:
        return message_from_proto(WireMessage.FromString(data))
    except (DecodeError, ValueError, KeyError, TypeError) as error:
        raise TransferError(f"not a message of Flower's: {error}", code="protocol") from None


def frames(data: bytes) -> list[bytes]:
    """Bytes in pieces."""
    return [data[start : start + _FRAME] for start in range(0, len(data), _FRAME)]
