"""What an app's messages tell of its rounds: lines as those of our own runs."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fedloom.core.types import Metrics, Refusal
from fedloom.results.observe import RoundLine
from fedloom.strategies.flower.records import EXAMPLES, metrics_of

__all__ = ["Rounds"]

_LOSSES = ("train_loss", "loss")


class Rounds:
    """Makes a line of every exchange of training, and of the evaluation that follows it.

    Args:
        done: given each line, once the next round begins or the app ends.
    """

    def __init__(self, done: Callable[[RoundLine], None]) -> None:
        self._done = done
        self._line: RoundLine | None = None
        self._began = self._last = time.monotonic()
        self._up = self._down = self._count = 0
        self.first: Metrics = {}
        self.evaluated: Metrics = {}

    @property
    def count(self) -> int:
        """Rounds so far."""
        return self._count

    def watch(self, messages: Sequence[Any], replies: Sequence[Any]) -> None:
        """Take in one exchange."""
        if not messages:
            return
        kind = messages[0].metadata.message_type.partition(".")[0]
        down, up = sum(map(_bytes_of, messages)), sum(map(_bytes_of, replies))
        self._up, self._down = self._up + up, self._down + down
        good = [reply for reply in replies if reply.has_content()]
        if kind == "train":
            self.finish()
            self._count += 1
            self._line = self._trained(messages, replies, good)
        elif kind == "evaluate":
            self.evaluated = _mean(good)
            line = self._line or RoundLine(0, stage="flower")
            self._line = replace(line, evaluation=self.evaluated)
        if self._line is not None:
            line = self._line
            self._line = replace(
                line,
                bytes_up=line.bytes_up + up,
                bytes_down=line.bytes_down + down,
                total_bytes_up=self._up,
                total_bytes_down=self._down,
            )

    def finish(self) -> None:
        """The round that was under way is over."""
        if self._line is None:
            return
        now = time.monotonic()
        line = replace(self._line, seconds=now - self._last, elapsed=now - self._began)
        self._last, self._line = now, None
        self._done(line)

    def _trained(
        self, messages: Sequence[Any], replies: Sequence[Any], good: Sequence[Any]
    ) -> RoundLine:
        metrics = _mean(good)
        loss = next((metrics[name] for name in _LOSSES if name in metrics), math.nan)
        refusals = tuple(
            Refusal(str(reply.metadata.src_node_id), str(reply.error.reason))
            for reply in replies
            if reply.has_error()
        )
        missing = len(messages) - len(good)
        own = {"stage": "flower", "accepted": len(good), "refused": missing, "loss": loss}
        return RoundLine(self._count, metrics=metrics, refusals=refusals, **own)  # type: ignore[arg-type]


def _mean(replies: Sequence[Any]) -> Metrics:
    """The metrics that all replies have, weighted by examples."""
    found = []
    for reply in replies:
        merged: dict[str, Any] = {}
        for record in reply.content.metric_records.values():
            merged |= dict(record)
        found.append((float(merged.get(EXAMPLES, 1.0)), metrics_of(merged)))
    total = sum(weight for weight, _ in found)
    if not found or total <= 0:
        return {}
    names = [name for name in found[0][1] if all(name in metrics for _, metrics in found)]
    return {n: math.fsum(w * metrics[n] for w, metrics in found) / total for n in names}


def _bytes_of(message: Any) -> int:
    """Bytes of a message's arrays and of what else is long in it."""
    if not message.has_content():
        return 0
    content = message.content
    arrays = (array for record in content.array_records.values() for array in record.values())
    configs = (value for record in content.config_records.values() for value in record.values())
    long = sum(len(value) for value in configs if isinstance(value, bytes))
    return long + sum(len(array.data) for array in arrays)
