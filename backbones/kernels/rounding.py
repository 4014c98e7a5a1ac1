"""Blocks in memory whose products are then kept in fewer bits."""

from dataclasses import replace

from torch import Tensor

from fedloom.backbones.block import Block
from fedloom.backbones.formats import SCHEMES, Scheme
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.product import Product
from fedloom.backbones.schemes import pack

__all__ = ["rounded"]


def rounded(
    block: Block,
    buffer: Buffer,
    *,
    scheme: Scheme = SCHEMES["int8"],
    engine: Engine = DEQUANTIZE,
) -> Block:
    """A block whose products keep their weights in a format; biases and norms stay as they are.

    Args:
        block: with weights as tensors.
        buffer: for unpacked weights, shared with other blocks.
        scheme: the format.
        engine: what multiplies.

    Raises:
        ConfigError: the format's groups do not divide the rows of a weight.
    """

    def kept(product: Product) -> Product:
        if not isinstance(product.weight, Tensor):  # it is in fewer bits already
            return product
        packed = pack(product.weight, scheme)
        return replace(product, weight=engine.made(packed, product.weight.dtype, buffer))

    attention, mlp = block.attention, block.mlp
    return replace(
        block,
        attention=replace(attention, qkv=kept(attention.qkv), out=kept(attention.out)),
        mlp=replace(mlp, up=kept(mlp.up), down=kept(mlp.down)),
    )
