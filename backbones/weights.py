"""How much memory the frozen weights of some blocks take."""

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass

from torch import Tensor

from fedloom.backbones.fused import FusedBackbone

__all__ = ["weight_bytes"]


def weight_bytes(backbone: FusedBackbone, blocks: Collection[str]) -> int:
    """Bytes of the tensors of `blocks` as they lie in memory; those of which two make use, once.

    Args:
        backbone: the model; of blocks that are not held the shapes are enough.
        blocks: ``embeddings``, ``layer.0`` ..., ``final`` and ``head`` (the pooler too).
    """
    parts: dict[str, object] = {
        "embeddings": backbone.embedding,
        "final": backbone.final,
        "head": (backbone.pooler, backbone.head),
        **{f"layer.{i}": block for i, block in enumerate(backbone.layers)},
    }
    found = (tensor for name in blocks for tensor in _tensors(parts[name]))
    return sum({id(tensor): tensor.nbytes for tensor in found}.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
