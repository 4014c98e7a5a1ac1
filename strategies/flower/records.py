"""Our vectors as Flower's records, and back."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout
from fedloom.core.types import ClientUpdate, Params

__all__ = ["arrays_of", "metrics_of", "node_of", "params_of", "replies_to", "same_arrays"]

_LOSS = "loss"
_TRAIN_LOSS = "train_loss"
EXAMPLES = "num-examples"


def node_of(client: str) -> int:
    """The number by which Flower's code knows a client: the same in every round and run."""
    digest = hashlib.blake2b(client.encode(), digest_size=8, person=b"fedloom/node").digest()
    return (int.from_bytes(digest, "little") >> 1) or 1


def arrays_of(params: Params) -> Any:
    """A model as an ``ArrayRecord``: one float32 array for each tensor, by its name."""
    from flwr.app import Array, ArrayRecord

    parts = params.layout.unflatten(params.vector)
    return ArrayRecord({name: Array(np.ascontiguousarray(part)) for name, part in parts.items()})


def params_of(record: Any, layout: Layout, where: str) -> Params:
    """What a strategy made of a model, as float32.

    Raises:
        StrategyError: it lacks a tensor, has one that the model lacks, or one of another shape.
    """
    found = {name: np.asarray(array.numpy()) for name, array in record.items()}
    for name in (*found, *layout.names):
        if name not in layout or name not in found:
            text = "the model has no such tensor" if name in found else "it is missing"
            raise StrategyError(f"{where}: tensor {name!r}: {text}")
    for spec in layout:
        if found[spec.name].shape != spec.shape:
            text = f"expected {spec.shape}, got {found[spec.name].shape}"
            raise StrategyError(f"{where}: tensor {spec.name!r}: {text}")
    return Params(layout, layout.flatten(found))


def same_arrays(one: Any, other: Any) -> bool:
    """Whether two records hold the same arrays, to the bit."""
    if one is other:
        return True
    if list(one) != list(other):
        return False
    return all(one[name] is other[name] or one[name].data == other[name].data for name in one)


def metrics_of(record: Mapping[str, Any] | None) -> dict[str, float]:
    """The single numbers of a ``MetricRecord``; how many examples there were is no metric."""
    numbers = {} if record is None else dict(record)
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and name != EXAMPLES
    }


def replies_to(
    messages: Sequence[Any], updates: Mapping[int, ClientUpdate], params: Params
) -> list[Any]:
    """What came, as Flower's strategies want it: whole models, and the same metrics of all.

    A tensor that an update lacks is as the global model has it. Metrics that some clients lack are
    left out. ``train_loss`` is there where ``loss`` is.

    Args:
        messages: of the round; replies come in their order.
        updates: decoded, by node.
        params: the model that they started from.
    """
    from flwr.app import Message, MetricRecord, RecordDict

    there = [m for m in messages if m.metadata.dst_node_id in updates]
    found = [updates[m.metadata.dst_node_id] for m in there]
    common = _common([update.metrics for update in found])
    replies = []
    for message, update in zip(there, found, strict=True):
        numbers = {name: float(update.metrics[name]) for name in common}
        if _LOSS in numbers:
            numbers.setdefault(_TRAIN_LOSS, numbers[_LOSS])
        content = {
            "arrays": arrays_of(_moved(params, update)),
            "metrics": MetricRecord({EXAMPLES: update.num_examples, **numbers}),
        }
        replies.append(Message(RecordDict(content), reply_to=message))
    return replies


def _common(some: Sequence[Mapping[str, float]]) -> list[str]:
    if not some:
        return []
    return [name for name in some[0] if all(name in one for one in some)]


def _moved(params: Params, update: ClientUpdate) -> Params:
    """The client's model: the global one plus its delta."""
    assert update.delta is not None
    delta = update.delta
    start = params.layout.gather(params.vector, delta.layout)
    vector = params.layout.scatter(params.vector, delta.layout, start + delta.vector)
    return Params(params.layout, vector)
