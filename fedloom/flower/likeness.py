"""Whether a ServerApp sends the message again that it sent before."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Likeness", "Likenesses"]

_CLOSE = 1e-3


@dataclass(frozen=True)
class Likeness:
    """What is written down of a message's content.

    Attributes:
        exact: digest of all of it.
        form: digest of its names, shapes, types, texts and whole numbers.
        numbers: its fractions, and for all arrays together their norm and sum.
    """

    exact: str
    form: str
    numbers: tuple[float, ...]

    def is_close(self, other: "Likeness") -> bool:
        """Whether two contents are the same but for the order of some additions."""
        if self.form != other.form or len(self.numbers) != len(other.numbers):
            return False
        one, two = np.array(self.numbers), np.array(other.numbers)
        scale = np.maximum(np.abs(one), np.abs(two))
        scale[-1:] = np.maximum(scale[-1:], scale[-2:-1])  # a sum is as exact as the norm
        same = np.isclose(one, two, rtol=0.0, atol=0.0, equal_nan=True)
        same |= np.abs(one - two) <= _CLOSE * scale
        return bool(same.all())

    def written(self) -> dict[str, Any]:
        """As plain values."""
        return {"exact": self.exact, "form": self.form, "numbers": list(self.numbers)}

    @staticmethod
    def read(table: Mapping[str, Any]) -> "Likeness":
        """From plain values."""
        return Likeness(table["exact"], table["form"], tuple(table["numbers"]))


class Likenesses:
    """Makes them; an array that the message before had is not looked at again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes, float, float]] = {}

    def of(self, message: Any) -> Likeness:
        """Of one message."""
        exact, form = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        numbers, squares, total = list[float](), 0.0, 0.0
        known = dict[int, tuple[bytes, bytes, float, float]]()
        content = message.content
        for name, record in content.array_records.items():
            for key, array in record.items():
                found = self._array(array)
                known[id(array.data)] = found
                squares, total = squares + found[2], total + found[3]
                about = f"{name}\0{key}\0{array.dtype}\0{list(array.shape)}\0{array.stype}\0"
                form.update(about.encode())
                exact.update(about.encode() + found[1])
        self._known = known
        for name, record in (*content.metric_records.items(), *content.config_records.items()):
            for key, value in record.items():
                items = value if isinstance(value, list) else [value]
                fractions = [item for item in items if type(item) is float]
                rest = [item for item in items if type(item) is not float]
                numbers += fractions
                about = f"{name}\0{key}\0{_text(rest)}\0{len(items)}\0"
                form.update(about.encode())
                exact.update(about.encode() + json.dumps(fractions).encode())
        numbers += [float(np.sqrt(squares)), total]
        return Likeness(exact.hexdigest(), form.hexdigest(), tuple(numbers))

    def _array(self, array: Any) -> tuple[bytes, bytes, float, float]:
        """An array's bytes, their digest, and the squares and the sum of its numbers."""
        found = self._known.get(id(array.data))
        if found is not None and found[0] is array.data:
            return found
        digest = hashlib.blake2b(array.data, digest_size=16).digest()
        squares, total = _sums(array)
        return array.data, digest, squares, total


def _sums(array: Any) -> tuple[float, float]:
    try:
        values = np.asarray(array.numpy())
        if values.dtype.kind not in "fiub":
            return 0.0, 0.0
        flat = values.reshape(-1).astype(np.float64, copy=False)
        return float(flat @ flat), float(flat.sum())
    except (TypeError, ValueError):  # not numpy's format: the digest alone can tell
        return 0.0, 0.0


def _text(values: Iterable[Any]) -> str:
    return json.dumps(
        [hashlib.blake2b(v).hexdigest() if isinstance(v, bytes) else v for v in values]
    )
