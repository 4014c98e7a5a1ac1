"""LoRA with a batched form. Names, start and the saved format are PEFT's."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedloom.backbones.base import Linear
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Vector
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.parts import LoraPart
from fedloom.tuning.placing import blocks_at, chosen, targets_for
from fedloom.tuning.side import SidePart, with_sides

if TYPE_CHECKING:
    from fedloom.backbones.loftq import Pair

__all__ = ["LORA_TARGETS", "Lora"]

LORA_TARGETS = {
    "bert": ("query", "value"),
    "gpt2": ("c_attn",),
    "llama": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "vit": ("q_proj", "v_proj"),
}


class Lora:
    """Low-rank updates of linear maps (LoRA, Hu et al., ICLR 2022).

    Args:
        rank: r.
        alpha: numerator of the scaling (0: twice the rank, a layer's own one too).
        targets: module names, as PEFT's ``target_modules``; ``all-linear`` for every one.
        layers: indices of transformer layers, negative from the top; empty for all.
        rslora: scale by alpha / sqrt(r) (Kalajdzievski, 2023) instead of alpha / r.
        ranks: pairs of a layer's index and the lower rank that it has, such as the layers beside
            the cut of a split model (the idea of SplitFT, Shan et al., arXiv 2604.26388); what
            they are scaled by is of that rank.
        init: ``random`` (a new LoRA: B is zero), or ``loftq``: the start that was found together
            with the stored weights (``fedloom quantize --loftq``), of every linear map.
        side: R, the rank of what the server has beside each of them, for strategies that put what
            two factors cannot hold there (0: nothing); see `fedloom.tuning.side`.
    """

    affine = False

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 0.0,
        targets: tuple[str, ...] = (),
        layers: tuple[int, ...] = (),
        rslora: bool = False,
        ranks: tuple[tuple[int, int], ...] = (),
        init: str = "random",
        side: int = 0,
    ) -> None:
        require(rank >= 1, "adapter.rank", rank, "1 or more")
        require(alpha >= 0, "adapter.alpha", alpha, "0 (twice the rank) or more")
        for layer, own in ranks:
            text = f"1 to adapter.rank = {rank}"
            require(1 <= own <= rank, f"adapter.ranks of layer {layer}", own, text)
        require(init in ("random", "loftq"), "adapter.init", init, "random or loftq")
        require(side >= 0, "adapter.side", side, "0 (none) or more")
        self._loftq = init == "loftq"
        whole = targets in ((), ("all-linear",)) and not layers and not ranks
        if self._loftq and not whole:
            text = "every linear map has its start: no other targets, no layers and no ranks"
            raise ConfigError(f"adapter.init = {init!r}: {text}")
        self._rank, self._alpha, self._ranks = rank, alpha, ranks
        self._targets = ("all-linear",) if self._loftq else targets
        self._layers, self._rslora, self._side = layers, rslora, side

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """A and B for every target, and what the server has beside them.

        Raises:
            ConfigError: a target names nothing, or there is no start of this rank to begin with.
        """
        parts: list[Part] = []
        for x, rank in self._chosen(catalog):
            scaling = self._scaling(rank)
            parts.append(LoraPart(x, rank, scaling, self._start(catalog, x)))
            if self._side:
                parts.append(SidePart(x, self._side, scaling))
        return parts

    def _start(self, catalog: Catalog, linear: Linear) -> "Pair | None":
        if not self._loftq:
            return None
        found = catalog.start(linear.name)
        if found is None:
            text = f"the backbone has no start for {linear.name}; fedloom quantize --loftq makes it"
            raise ConfigError(f"adapter.init = 'loftq': {text}")
        rank = len(found[0])
        require(rank == self._rank, "adapter.rank", self._rank, f"{rank}, as the start has")
        return found

    def _alpha_of(self, rank: int) -> float:
        return self._alpha or 2.0 * rank

    def _scaling(self, rank: int) -> float:
        return self._alpha_of(rank) / (math.sqrt(rank) if self._rslora else rank)

    def _chosen(self, catalog: Catalog) -> list[tuple[Linear, int]]:
        """Every target with its rank."""
        found = chosen(catalog, targets_for(catalog, self._targets, LORA_TARGETS), self._layers)
        own: dict[str, int] = {}
        for layer, rank in self._ranks:
            blocks = blocks_at(catalog, layer, "adapter.ranks: layer")
            here = {linear.block for linear in found}.intersection(blocks)
            if not here or here.intersection(own):
                text = "each layer once, of those with an adapter"
                raise ConfigError(f"adapter.ranks: layer = {layer}: {text}")
            own |= dict.fromkeys(here, rank)
        return [(linear, own.get(linear.block, self._rank)) for linear in found]

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """``LoraConfig``; the modules are named in full, so that layers need no pattern."""
        found = self._chosen(catalog)
        lower = {linear.name: rank for linear, rank in found if rank != self._rank}
        more = self._side  # what is beside a pair is written as a part of it, scaled as it is
        config: dict[str, object] = {
            "peft_type": "LORA",
            "r": self._rank + more,
            "lora_alpha": self._written_alpha(self._rank),
            "lora_dropout": 0.0,
            "use_rslora": self._rslora,
            "bias": "none",
            "fan_in_fan_out": catalog.family == "gpt2",
            "target_modules": [linear.name for linear, _ in found],
        }
        if lower:
            alphas = {name: self._written_alpha(rank) for name, rank in lower.items()}
            ranks = {name: rank + more for name, rank in lower.items()}
            config |= {"rank_pattern": ranks, "alpha_pattern": alphas}
        return config

    def _written_alpha(self, rank: int) -> float:
        """The alpha with which PEFT scales the whole as a pair of a rank is scaled here."""
        if not self._side:
            return self._alpha_of(rank)
        whole = rank + self._side
        return self._scaling(rank) * (math.sqrt(whole) if self._rslora else whole)

    def merged(self, tensors: Mapping[str, Vector]) -> dict[str, Vector]:
        """The tensors as PEFT knows them: one pair in place of two beside each other."""
        return with_sides(tensors)
