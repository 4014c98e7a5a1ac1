"""What our ServerApp and ClientApp say to each other inside Flower's messages.

Everything is in one ``ConfigRecord`` named ``fedloom``: the job's manifest, a work order, and the
model's frame, as our own protocol has them; back come a result's numbers and its payload.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedloom.client.outbox import Finished
from fedloom.core.errors import ConfigError
from fedloom.core.types import Cost
from fedloom.server.records import Result

__all__ = ["answered", "asked", "said", "told", "work_of"]

RECORD, METRICS = "fedloom", "metrics"


def asked(kind: str, node: int, **values: str | bytes) -> Any:
    """A message to a node."""
    return Message(RecordDict({RECORD: ConfigRecord(values)}), dst_node_id=node, message_type=kind)


def work_of(message: Any) -> Mapping[str, Any]:
    """What a message asks.

    Raises:
        ConfigError: it is of another ServerApp than ours.
    """
    found = message.content.config_records.get(RECORD)
    if found is None:
        text = "the clients of this app answer fedloom's ServerApp, and no strategy of Flower's"
        more = "name that in the job instead, as strategy = 'flwr:FedAvg'"
        raise ConfigError(f"{message.metadata.message_type}: {text}; {more}")
    return dict(found)


def said(message: Any, values: Mapping[str, Any], numbers: Mapping[str, float]) -> Any:
    """The reply to a message."""
    content = {RECORD: ConfigRecord(dict(values)), METRICS: MetricRecord(dict(numbers))}
    return Message(RecordDict(content), reply_to=message)


def told(reply: Any) -> tuple[Result, bytes]:
    """The result in a reply, and its payload.

    Raises:
        ConfigError: it is of another ClientApp than ours.
    """
    found = dict(work_of(reply))
    numbers = dict(reply.content.metric_records[METRICS])
    examples = int(numbers.pop("num-examples"))
    cost = {name: numbers.pop(name) for name in ("flops", "seconds", "tokens", "peak-memory")}
    result = Result(
        size=len(found["payload"]),
        sha256=found["sha256"],
        codec=found["codec"],
        num_examples=examples,
        metrics=numbers,
        cost=Cost(
            flops=cost["flops"],
            seconds=cost["seconds"],
            peak_memory=int(cost["peak-memory"]),
            tokens=int(cost["tokens"]),
            device_seconds=cost["seconds"],
        ),
    )
    return result, found["payload"]


def answered(message: Any, finished: Finished, payload: bytes) -> Any:
    """The reply with a result."""
    numbers = {
        **finished.metrics,
        "num-examples": finished.num_examples,
        "flops": float(finished.flops),
        "seconds": float(finished.seconds),
        "tokens": finished.tokens,
        "peak-memory": finished.peak_memory,
    }
    values = {"payload": payload, "codec": finished.codec, "sha256": finished.sha256}
    return said(message, values, numbers)
