"""How a model's tensors are written for PEFT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedloom.core.layout import Vector

__all__ = ["Exported"]


@dataclass(frozen=True)
class Exported:
    """How a model's tensors are written for PEFT.

    Attributes:
        config: ``adapter_config.json``; empty where PEFT has no such method.
        auto: the transformers class that the base model is loaded with.
        arguments: further arguments of its ``from_pretrained``, as source text.
        left_out: tensors that PEFT's format has no place for.
        convert: makes what PEFT's file has of all tensors by name, where that is not just these.
        plain: all tensors but a head of ours are those of transformers' own state dict.
    """

    config: Mapping[str, object]
    auto: str = ""
    arguments: str = ""
    left_out: frozenset[str] = frozenset()
    convert: Callable[[Mapping[str, Vector]], dict[str, Vector]] | None = None
    plain: bool = False

    def contents(self, tensors: Mapping[str, Vector]) -> dict[str, Vector]:
        """What ``adapter_model.safetensors`` holds, of all tensors by name."""
        if self.convert is not None:
            return self.convert(tensors)
        kept = {name: t for name, t in tensors.items() if name not in self.left_out}
        return {f"base_model.model.{name}": t for name, t in kept.items()}
