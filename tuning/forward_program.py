"""The forward pass of a fused model as one graph: a batch of one shape under several adapters.

What is traced is the code that trains here, run once: the graph does what the cohort does with P
clients that hold the same examples (`fedloom.backbones.base`), so that examples are read once and
P sets of adapter tensors are a batch dimension. Blocks below the lowest that has a part run once
for all of them. Weights are constants of the graph; adapter tensors are its inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from fedloom.backbones.base import Grid, Packing, Sites
from fedloom.core.errors import ConfigError, require
from fedloom.tuning.base import CohortModel
from fedloom.tuning.composition import Composition
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.readout import class_logits, pooled
from fedloom.tuning.store import Store

__all__ = ["ForwardProgram", "Size"]

_SCALE = 0.02
"""How far the random adapters are from the first: enough to be told apart."""


@dataclass(frozen=True)
class Size:
    """What is fixed in a program.

    Attributes:
        perturbations: P, sets of adapter tensors that a batch is run under.
        batch: B, examples.
        length: T, tokens of an example with its padding; not looked at for images.
    """

    perturbations: int
    batch: int
    length: int

    def __post_init__(self) -> None:
        for name in ("perturbations", "batch", "length"):
            value = getattr(self, name)
            require(value >= 1, name, value, "1 or more")


class _Given:
    """Tensors that are given, in place of a `Store`'s rows, for a forward pass alone."""

    dtype = torch.float32

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.sites: Sites = {}
        self.anchor = torch.zeros(())

    def view(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name` under every perturbation, float32 ``[P, *shape]``."""
        return self._tensors[name]

    def grad_view(self, name: str) -> Tensor:
        """Not None: every tensor takes part, whatever its numbers. It is not written to."""
        return self._tensors[name]


class ForwardProgram:
    """A model's forward pass for one size.

    Args:
        model: a fused model in float32; see `fedloom.tuning.build.build_model`.
        size: what is fixed.

    Raises:
        ConfigError: the model is not of the fused engine, or examples are longer than it reads.
    """

    def __init__(self, model: CohortModel, size: Size) -> None:
        if not isinstance(model, FusedModel):
            text = "this model runs through transformers; families with fused blocks can be traced"
            raise ConfigError(f"a program of the forward pass: {text}")
        self.model, self.size = model, size
        longest = model.backbone.shape.max_positions
        if not self.images:
            require(size.length <= longest, "length", size.length, f"at most {longest}")

    @property
    def images(self) -> bool:
        """Whether examples are images."""
        return self.model.task.kind == "classify-image"

    @cached_property
    def tokens(self) -> int:
        """Tokens of an example with its padding."""
        return 1 + self.model.backbone.shape.patches if self.images else self.size.length

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Random values of each input by name, in order: examples, then the layout's tensors."""
        p, layout = self.size.perturbations, self.model.layout
        start, draws = self.model.initial(0).vector, np.random.default_rng(0)
        moved = start + draws.normal(scale=_SCALE, size=(p, layout.size)).astype(np.float32)
        return self._examples(draws) | {
            spec.name: torch.from_numpy(moved[:, layout.span(spec.name)].copy()).view(
                p, *spec.shape
            )
            for spec in layout
        }

    def _examples(self, draws: np.random.Generator) -> dict[str, Tensor]:
        shape, b = self.model.backbone.shape, self.size.batch
        if self.images:
            pixels = draws.normal(size=(b, shape.channels, *shape.image)).astype(np.float32)
            return {"pixels": torch.from_numpy(pixels)}
        ids = draws.integers(0, shape.vocab, (b, self.tokens))
        if isinstance(self.model.read, int):  # each example has that token once
            ids[ids == self.model.read] = 0
            ids[:, 0] = self.model.read
        lengths = draws.integers(1, self.tokens, b, endpoint=True)
        return {"ids": torch.from_numpy(ids), "lengths": torch.from_numpy(lengths)}

    def traced(self) -> GraphModule:
        """The graph; its arguments are the `inputs` in order, its result what `run` returns.

        Raises:
            ConfigError: what the adapter computes depends on its numbers.
        """
        self.run(self.inputs)  # what the first run finds out of this machine is not traced
        try:
            return _plain(make_fx(self._positional)(*self.inputs.values()))
        except RuntimeError as error:
            if "tracing tensor" not in str(error):
                raise
            text = "which operations this adapter needs depends on its numbers; lora has one graph"
            raise ConfigError(f"a program of the forward pass: {text}") from None

    def _positional(self, *tensors: Tensor) -> Tensor:
        return self.run(dict(zip(self.inputs, tensors, strict=True)))

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of a batch under every set of tensors.

        Args:
            inputs: by name, as `inputs` has them: ``ids`` int64 ``[B, T]`` and ``lengths`` int64
                ``[B]``, at least 1 (what stands in `ids` beyond an example's length is not read),
                or ``pixels`` float32; each tensor of the layout, float32 ``[P, *shape]``.

        Returns:
            float32 ``[P, B, classes]``; of a language model ``[P, B, T, vocabulary]``, at each
            token those of the next.
        """
        model, backbone, p = self.model, self.model.backbone, self.size.perturbations
        given = _Given(inputs)
        store, parts = cast(Store, given), model.composition.parts
        given.sites = Composition.sites(parts, store)
        sites, cut = model.relative(given.sites), model.cut(parts)
        once, several = self._packing(inputs, 1), self._packing(inputs, p)
        words, reads = model.task.kind == "causal-lm", model.read is not None
        hidden = self._embedded(inputs, once)
        done = cut == model.depth
        hidden = backbone.run(hidden, once, last=cut, trim=reads and done)
        if done and not words:
            read = _repeated(pooled(model, hidden, once), p)
        else:
            hidden = backbone.run(
                _repeated(hidden, p), several, first=cut, sites=sites, trim=reads and not done
            )
            if words:
                rows = backbone.token_logits(hidden.flatten(0, 1))
                return rows.view(p, self.size.batch, self.tokens, -1)
            read = pooled(model, hidden, several)
        return class_logits(model, store, read).view(p, self.size.batch, -1)

    def _embedded(self, inputs: Mapping[str, Tensor], packing: Packing) -> Tensor:
        if self.images:
            return self.model.backbone.embed_images(inputs["pixels"][None], packing)
        return self.model.backbone.embed(packing)

    def _packing(self, inputs: Mapping[str, Tensor], clients: int) -> Packing:
        """The batch for so many clients: examples of one padded length, one after the other."""
        rows, tokens = clients * self.size.batch, self.tokens
        index = torch.arange(rows * tokens).view(rows, tokens)
        steps = torch.arange(tokens)
        mask, ids, read = None, None, index[:, 0]
        if not self.images:
            lengths = inputs["lengths"].repeat(clients)
            ids = inputs["ids"].repeat(clients, 1)
            mask = steps < lengths[:, None]
            read = index[:, 0] + self._place(ids, lengths)
        return Packing(
            clients=clients,
            length=self.size.batch * tokens,
            examples=self.size.batch,
            ids=None if ids is None else ids.view(clients, -1),
            positions=steps.repeat(clients, self.size.batch),
            grids=(Grid(index, mask, torch.arange(rows)),),
            back=index.flatten(),
            read=None if self.model.read is None else read.view(clients, -1),
            regular=True,
            useful=1.0,
        )

    def _place(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Where in its example the token is that is read, int64 ``[P * B]``."""
        if self.model.read == "last":
            return lengths - 1
        if isinstance(self.model.read, int):
            return (ids == self.model.read).to(torch.int64).argmax(1)
        return torch.zeros_like(lengths)


def _repeated(tensor: Tensor, times: int) -> Tensor:
    """``[1, ...]`` as ``[times, ...]``."""
    return tensor.repeat(times, *(1 for _ in tensor.shape[1:]))


def _plain(graph: GraphModule) -> GraphModule:
    """The same in operations that every runtime has.

    oneDNN's linear layers (`fedloom.backbones.product.affine`) are linear layers; four bits of a
    byte (`fedloom.backbones.schemes.Packed`) are found by a division in place of a shift; memory
    has numbers from the start.
    """
    for node in graph.graph.nodes:
        kind = str(node.target)
        if kind == "mkldnn._linear_pointwise.default":
            node.target, node.args = torch.ops.aten.linear.default, node.args[:3]
        elif kind == "aten.__rshift__.Scalar":
            codes, places = node.args
            node.target, node.args = torch.ops.aten.div.Scalar_mode, (codes, 2**places)
            node.kwargs = {"rounding_mode": "floor"}
        elif kind == "aten.empty_like.default":  # written to before it is read
            node.target, node.args, node.kwargs = (
                torch.ops.aten.full_like.default,
                (node.args[0], 0),
                {},
            )
        elif kind == "aten.__and__.Scalar":
            node.target = torch.ops.aten.bitwise_and.Scalar
    graph.recompile()
    return graph
