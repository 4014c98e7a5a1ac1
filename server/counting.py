"""Counts since the server began, for whoever watches it."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Counting"]


@dataclass(eq=False)
class Counting:
    """Written by one thread, read by any.

    Attributes:
        check_ins: calls that asked for work.
        results: results that were acknowledged.
        bytes_up: bytes of payloads that arrived, those of refused ones too.
        bytes_down: bytes of contents that were sent.
        refused: refusals by code.
        resyncs: clients with a model that was not the server's, who were sent all of it.
    """

    check_ins: int = 0
    results: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    resyncs: int = 0
