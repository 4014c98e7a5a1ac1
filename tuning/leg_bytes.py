"""Bytes that the legs of split sessions take: one count for a simulation and for a live far side.

Bodies count as they are packed. Beside them every length, label, place and figure of a loss counts
as four bytes; other fields of messages, and what a network adds, do not.
"""

__all__ = ["figure_bytes", "length_bytes", "place_bytes"]

_NUMBER = 4


def length_bytes(examples: int) -> int:
    """Of the lengths of so many examples."""
    return _NUMBER * examples


def place_bytes(predictions: int) -> int:
    """Of where so many predictions are made, and of their labels."""
    return 2 * _NUMBER * predictions


def figure_bytes(predictions: int, clients: int = 1) -> int:
    """Of the losses of so many predictions: each one's, and three figures of every client."""
    return _NUMBER * (3 * clients + 2 * predictions)
