"""A frozen backbone of fused blocks, read straight from a folder of safetensors.

Neither transformers nor peft is needed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.assemble import Source
from fedloom.backbones.base import Linear, Packing, Sites
from fedloom.backbones.block import Block, run_block
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.embedding import Embedding, ImageEmbedding, load_embedding
from fedloom.backbones.frame import frame
from fedloom.backbones.head import FrozenLinear, load_head, load_pooler
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.norm import Norm, frozen_norm
from fedloom.backbones.pooling import Pooling, pool
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.errors import DataError, ModelError

__all__ = ["FusedBackbone", "assembled", "load_fused"]


@dataclass(frozen=True)
class FusedBackbone:
    """A frozen transformer that runs packed examples of k clients.

    Of blocks that were not asked for, tensors have a shape and no numbers (the ``meta`` device).

    Attributes:
        shape: of the model.
        prefix: transformers' ``base_model_prefix``; module names are relative to that model.
        dtype: of hidden states and products.
        device: where it runs.
        checkpoint: where the weights came from.
        embedding: what makes the first hidden states.
        layers: the blocks.
        final: the norm after the last block; None where the family has none.
        pooler: BERT's pooler; None where the family or the checkpoint has none, or no head was
            asked for.
        head: the language-model head; None as `pooler` is.
    """

    shape: Shape
    prefix: str
    dtype: torch.dtype
    device: torch.device
    checkpoint: Checkpoint
    embedding: Embedding | ImageEmbedding
    layers: tuple[Block, ...]
    final: Norm | None
    pooler: FrozenLinear | None
    head: FrozenLinear | None

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks in order: ``embeddings``, ``layer.0`` ..., ``final`` if any."""
        layers = (f"layer.{i}" for i in range(self.shape.depth))
        return ("embeddings", *layers, *(["final"] if self.final else []))

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linear maps that adapters may be attached to."""
        return tuple(
            Linear(member.name, f"layer.{i}", product.weight.shape[1], member.stop - member.start)
            for i, block in enumerate(self.layers)
            for product in block.products
            for member in product.members
        )

    @cached_property
    def norms(self) -> tuple[Linear, ...]:
        """The norms that adapters may be attached to."""
        width = self.shape.width
        return tuple(
            Linear(norm.name, f"layer.{i}", width, width)
            for i, block in enumerate(self.layers)
            for norm in (block.norm1, block.norm2)
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the weights on disk."""
        return self.checkpoint.digest()

    def embed(self, packing: Packing) -> Tensor:
        """First hidden states ``[k, L, d]`` of packed token ids.

        Raises:
            DataError: the model reads images, or an example is longer than it allows.
        """
        if isinstance(self.embedding, ImageEmbedding):
            raise DataError("embed: this backbone reads images; use embed_images")
        with torch.no_grad():
            return self.embedding.run(packing)

    def embed_images(self, pixels: Tensor, packing: Packing) -> Tensor:
        """First hidden states ``[k, L, d]`` of images ``[k, b, channels, height, width]``.

        Raises:
            DataError: the model reads text, or images of another size or number.
        """
        if isinstance(self.embedding, Embedding):
            raise DataError("embed: this backbone reads text; use embed")
        if pixels.shape[:2] != (packing.clients, packing.examples):
            expected = (packing.clients, packing.examples)
            raise DataError(f"embed: images of {tuple(pixels.shape[:2])}; packed are {expected}")
        with torch.no_grad():
            return self.embedding.run(pixels)

    def run(
        self,
        hidden: Tensor,
        packing: Packing,
        *,
        first: int = 0,
        last: int | None = None,
        order: Sequence[int] | None = None,
        sites: Sites | None = None,
        trim: bool = False,
        recompute: bool = False,
    ) -> Tensor:
        """Run the blocks from `first` up to `last`, or those of an order of one's own.

        Args:
            hidden: ``[k, L, d]``.
            packing: where each example's tokens lie.
            first: the first block, counted from 0.
            last: the block to stop before; None runs all.
            order: indices of the blocks to run instead, some left out or taken twice.
            sites: what is attached, by module name; names of other blocks are passed over.
            trim: compute the last of these blocks only for the tokens in ``packing.read``. Exact
                where nothing else is read, which holds for the very last block.
            recompute: blocks keep their inputs alone, and run again in the backward pass.

        Returns:
            ``[k, L, d]``, or ``[k, b, d]`` where trimmed. Blocks that need no gradient keep
            nothing. What stands at padding means nothing, and a loss must not read it: its gradient
            there has to be zero.

        Raises:
            ModelError: `trim` with a packing that reads all tokens.
        """
        if trim and packing.read is None:
            raise ModelError("run: trim needs a packing with read = 'first' or 'last'")
        taken = range(self.shape.depth)[first:last] if order is None else order
        blocks = [self.layers[i] for i in taken]
        sites = sites or {}
        whole = frame(packing, self.shape, self.dtype, trim=False)
        for i, block in enumerate(blocks):
            if trim and i == len(blocks) - 1:
                whole = frame(packing, self.shape, self.dtype, trim=True)
            hidden = run_block(block, hidden, whole, sites, recompute=recompute)
        return hidden

    def finish(
        self, hidden: Tensor, packing: Packing, pooling: Pooling, *, trimmed: bool = False
    ) -> Tensor:
        """One vector per example after the final norm, differentiable in the hidden states.

        Args:
            hidden: what `run` returned for the last block.
            packing: where each example's tokens lie.
            pooling: ``first``, ``last`` or ``mean`` over the tokens of each example.
            trimmed: `hidden` is ``[k, b, d]`` already; `pooling` is not looked at.

        Returns:
            ``[k, b, d]``; what stands at places of clients with fewer examples means nothing.
        """
        if pooling == "mean" and not trimmed and self.final is not None:
            return pool(frozen_norm(self.final, hidden), packing, pooling)
        pooled = hidden if trimmed else pool(hidden, packing, pooling)
        return pooled if self.final is None else frozen_norm(self.final, pooled)

    def pool_first(self, first: Tensor) -> Tensor:
        """BERT's pooler, ``tanh(W x + b)``, on vectors ``[..., d]`` of first tokens.

        Raises:
            ModelError: the family or the checkpoint has no pooler.
        """
        if self.pooler is None:
            raise ModelError(f"{self.checkpoint.folder}: no pooler; read the first token without")
        return torch.tanh(self.pooler(first))

    def token_logits(self, rows: Tensor) -> Tensor:
        """Logits ``[n, vocab]`` for hidden states ``[n, d]`` as `run` returns them.

        The final norm is applied here.

        Raises:
            ModelError: the family or the checkpoint has no language-model head.
        """
        if self.head is None:
            raise ModelError(f"{self.checkpoint.folder}: no language-model head (lm_head.weight)")
        return self.head(rows if self.final is None else frozen_norm(self.final, rows))

    def flops_per_token(self, first_trained: int, depth: int | None = None) -> float:
        """Floating-point operations of the frozen products in one training step, per token.

        Forward through all blocks, or so many as `depth` says; the input gradient down to the
        block at `first_trained`, in which the products of queries, keys and values need none.
        Attention itself is left out.
        """
        if not self.layers:
            return 0.0
        sizes = [product.weight.shape.numel() for product in self.layers[0].products]
        run = self.shape.depth if depth is None else depth
        trained = max(0, run - first_trained)
        backward = trained * sum(sizes) - (sizes[0] if trained else 0)
        return 2.0 * (run * sum(sizes) + backward)

    def saved_bytes_per_token(self, length: int = 128) -> int:
        """Memory that one trained block keeps for its backward pass, per token.

        Inputs of both norms and of the first product, queries, keys and values, the input of the
        activation, and attention probabilities at examples of `length` tokens.
        """
        inner = self.shape.inner * (2 if self.shape.gated else 1)
        kept = 3 * self.shape.width + sum(self.shape.qkv_widths) + inner + self.shape.heads * length
        return kept * self.dtype.itemsize

    def input_bytes_per_token(self) -> int:
        """Memory of the inputs of one block's products and of its norms' outputs, per token.

        They are kept where weights train: of the norms in float32, as they are computed.
        """
        width, inner = self.shape.width, self.shape.inner
        return (2 * width + self.shape.qkv_widths[0] + inner) * self.dtype.itemsize + 8 * width


def load_fused(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    held: Collection[str] | None = None,
    kernel: Engine = DEQUANTIZE,
) -> FusedBackbone:
    """Read a backbone from a folder with ``config.json`` and safetensors.

    Args:
        folder: as ``save_pretrained`` of transformers writes it, whole or in shards.
        dtype: float32 or bfloat16, of weights and hidden states.
        device: where it shall run.
        held: which blocks are read: ``embeddings``, ``layer.0`` ..., ``final`` and ``head`` (the
            pooler too); None for all. The files may lack the others.
        kernel: what multiplies with weights that are stored in fewer bits.

    Raises:
        ModelError: the family or one of its options has no fused blocks, or the files are missing
            or do not fit the configuration.
    """
    shape = read_shape(read_config(folder))
    source = Source(open_checkpoint(folder, device), shape, dtype, kernel)
    return assembled(source, held)


def assembled(source: Source, held: Collection[str] | None) -> FusedBackbone:
    """Build a backbone from the tensors of a checkpoint; see `load_fused`.

    Raises:
        ModelError: a tensor is missing or does not fit the shape.
    """
    shape, hollow = source.shape, replace(source, hollow=True)

    def of(block: str) -> Source:
        return source if held is None or block in held else hollow

    topped = of("head") is source
    tied = topped and shape.causal and shape.tied
    with torch.no_grad():
        embedding = load_embedding(source if tied else of("embeddings"))
        tokens = embedding.tokens if topped and isinstance(embedding, Embedding) else None
        return FusedBackbone(
            shape=shape,
            prefix=source.family.prefix,
            dtype=source.dtype,
            device=source.checkpoint.device,
            checkpoint=source.checkpoint,
            embedding=embedding,
            layers=tuple(of(f"layer.{i}").block(i) for i in range(shape.depth)),
            final=of("final").outer_norm("final"),
            pooler=load_pooler(source) if topped else None,
            head=None if tokens is None else load_head(source, tokens),
        )
