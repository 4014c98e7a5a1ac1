"""What both sides of the wire must say alike, beside the messages themselves (`protos/`)."""

__all__ = ["CLIENT_HEADER", "MESSAGE", "PROTOCOL", "REASON", "RETRY_AFTER"]

PROTOCOL = 1
"""Version of the contract."""
MESSAGE = (1 << 20) + (4 << 10)
"""Bytes of a message at most; contents travel in chunks."""
CLIENT_HEADER = "fedloom-client"
"""Metadata by which a client names itself, percent-encoded, where there is no TLS."""
REASON = "fedloom-reason"
"""Trailing metadata with the one word of a refusal."""
RETRY_AFTER = "retry-after"
"""Trailing metadata with the seconds after which trying again may help."""
