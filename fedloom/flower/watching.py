"""What an app's messages tell of its rounds: lines as those of our own runs."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedloom.core.types import Metrics, Refusal
from fedloom.results.observe import RoundLine
from fedloom.strategies.flower.records import EXAMPLES, metrics_of

__all__ = ["Rounds", "Sent"]

_LOSSES = ("train_loss", "loss")
_EXAMPLES = (EXAMPLES, "num_examples")


@dataclass(frozen=True)
class Sent:
    """What is remembered of a message that is out.

    Attributes:
        kind: its type.
        group: its group; empty where it has none.
        node: whom it is for.
        size: bytes of its arrays and texts.
    """

    kind: str
    group: str
    node: int
    size: int

    @staticmethod
    def of(message: Any) -> "Sent":
        """Of a message."""
        about = message.metadata
        group = str(about.group_id)
        return Sent(about.message_type, group, about.dst_node_id, _bytes_of(message))


@dataclass
class _Kind:
    """What came of one kind of messages in a round: one exchange, or several of one group."""

    group: str
    asked: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    weighted: list[tuple[float, Metrics]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def take(self, messages: Sequence[Sent], replies: Sequence[Any]) -> None:
        """Take in an exchange."""
        good = [reply for reply in replies if reply.has_content()]
        self.weighted += [_numbers(reply.content) for reply in good]
        asked = {message.node for message in messages}
        self.asked |= asked
        self.failed |= asked - {reply.metadata.src_node_id for reply in good}
        for reply in replies:
            if reply.has_error():
                why = str(reply.error.reason)
                self.refusals.append(Refusal(str(reply.metadata.src_node_id), why))

    def mean(self) -> Metrics:
        """The metrics that all replies have, weighted by examples."""
        total = math.fsum(weight for weight, _ in self.weighted)
        if not self.weighted or not total > 0:
            return {}
        names = [n for n in self.weighted[0][1] if all(n in one for _, one in self.weighted)]
        return {n: math.fsum(w * one[n] for w, one in self.weighted) / total for n in names}


class Rounds:
    """Makes a line of every exchange of training, and of the evaluation after it.

    Older apps have an exchange for each node; those of one round name it as their group.

    Args:
        done: given each line, once the next round begins or the app ends.
        after: rounds that are done already.
    """

    def __init__(self, done: Callable[[RoundLine], None], *, after: int = 0) -> None:
        self._done = done
        self._line: RoundLine | None = None
        self._trained = self._judged = _Kind("")
        self._began = self._last = time.monotonic()
        self._up = self._down = 0
        self._count = after
        self.evaluated: Metrics = {}

    @property
    def count(self) -> int:
        """Rounds so far."""
        return self._count

    def watch(self, messages: Sequence[Sent], replies: Sequence[Any]) -> None:
        """Take in one exchange."""
        if not messages:
            return
        kind, group = messages[0].kind.partition(".")[0], messages[0].group
        down, up = sum(message.size for message in messages), sum(map(_bytes_of, replies))
        self._up, self._down = self._up + up, self._down + down
        if kind == "train" and up + down:  # without either it is a preparation
            if self._line is None or not group or group != self._trained.group:
                self.finish()
                self._count += 1
                self._trained, self._judged = _Kind(group), _Kind("")
                self._line = RoundLine(self._count, stage="flower")
            self._trained.take(messages, replies)
        elif kind == "evaluate":
            if not group or group != self._judged.group:
                self._judged = _Kind(group)
            self._judged.take(messages, replies)
            self.evaluated = self._judged.mean()
            self._line = self._line or RoundLine(0, stage="flower")
        if self._line is not None:
            self._line = self._told(self._line, up, down)

    def finish(self) -> None:
        """The round that was under way is over."""
        if self._line is None:
            return
        now = time.monotonic()
        line = replace(self._line, seconds=now - self._last, elapsed=now - self._began)
        self._last, self._line = now, None
        self._done(line)

    def _told(self, line: RoundLine, up: int, down: int) -> RoundLine:
        trained, metrics = self._trained, self._trained.mean()
        return replace(
            line,
            accepted=len(trained.asked - trained.failed),
            refused=len(trained.failed),
            refusals=tuple(trained.refusals),
            metrics=metrics,
            loss=next((metrics[name] for name in _LOSSES if name in metrics), math.nan),
            evaluation=self._judged.mean(),
            bytes_up=line.bytes_up + up,
            bytes_down=line.bytes_down + down,
            total_bytes_up=self._up,
            total_bytes_down=self._down,
        )


def _numbers(content: Any) -> tuple[float, Metrics]:
    """How many examples a reply stands for, and its metrics; older apps have them elsewhere."""
    merged: dict[str, Any] = {}
    for name, record in (*content.metric_records.items(), *content.config_records.items()):
        if name in content.metric_records or name.endswith("res.metrics"):
            merged |= dict(record)
    weight = next((merged.pop(name) for name in _EXAMPLES if name in merged), 1.0)
    return float(weight) if _is_number(weight) else 1.0, _plain(merged)


def _plain(numbers: Mapping[str, Any]) -> Metrics:
    return metrics_of({name: value for name, value in numbers.items() if _is_number(value)})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bytes_of(message: Any) -> int:
    """Bytes of a message's arrays and of what else is long in it."""
    if not message.has_content():
        return 0
    content = message.content
    arrays = (array for record in content.array_records.values() for array in record.values())
    configs = (value for record in content.config_records.values() for value in record.values())
    lists = (value if isinstance(value, list) else [value] for value in configs)
    long = sum(len(value) for values in lists for value in values if isinstance(value, bytes))
    return long + sum(len(array.data) for array in arrays)
