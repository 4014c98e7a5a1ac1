"""The linear maps of a block, by part: what graphs, their memory and adapters have in common."""

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.shape import Shape
from fedloom.core.errors import ModelError

__all__ = ["FAMILIES_OF_TEXTS", "check_family", "has_bias", "linears_of"]

FAMILIES_OF_TEXTS = ("bert", "llama", "qwen2", "gpt2")
"""What graphs are made of."""


def check_family(shape: Shape) -> None:
    """Check that graphs are made of a family.

    Raises:
        ModelError: they are not.
    """
    if shape.family not in FAMILIES_OF_TEXTS:
        known = ", ".join(map(repr, FAMILIES_OF_TEXTS))
        text = f"model_type = {shape.family!r}: the engine onnx has {known}"
        raise ModelError(f"{text}; others need torch")


def linears_of(shape: Shape) -> dict[str, tuple[int, int]]:
    """``(d_out, d_in)`` of each map, in the order of `fedloom.backbones.fused.FusedBackbone`."""
    d, widths = shape.width, shape.qkv_widths
    if "qkv" in FAMILIES[shape.family].parts:
        found = {"qkv": (sum(widths), d)}
    else:
        found = {part: (width, d) for part, width in zip("qkv", widths, strict=True)}
    found["o"] = (d, widths[0])
    if shape.gated:
        found["gate"] = (shape.inner, d)
    return found | {"up": (shape.inner, d), "down": (d, shape.inner)}


def has_bias(shape: Shape, part: str) -> bool:
    """Whether a linear map has one."""
    if part == "o":
        return shape.out_bias
    return shape.mlp_bias if part in ("gate", "up", "down") else shape.qkv_bias
