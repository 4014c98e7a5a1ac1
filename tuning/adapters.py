"""The adapters with a batched form. Names, starts and the saved format are PEFT's where it has one.

Any other method of the `peft` library runs through `fedloom.tuning.peft_bridge` with one client at
a time.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from fedloom.backbones.base import Linear
from fedloom.backbones.loftq import Pair
from fedloom.core.errors import ConfigError, nearest, require
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.parts import BiasPart, BottleneckPart, Ia3Part, LoraPart

__all__ = ["BitFit", "Bottleneck", "HeadOnly", "Ia3", "Lora", "chosen"]

LORA_TARGETS = {
    "bert": ("query", "value"),
    "gpt2": ("c_attn",),
    "llama": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "vit": ("q_proj", "v_proj"),
}
IA3_TARGETS = {
    "bert": (("key", "value"), ("output.dense",)),
    "gpt2": (("c_attn",), ("mlp.c_proj",)),
    "llama": (("k_proj", "v_proj"), ("down_proj",)),
    "qwen2": (("k_proj", "v_proj"), ("mlp.down_proj",)),
    "vit": (("k_proj", "v_proj"), ("fc2",)),
}
FEED_FORWARD = {
    "bert": ("output.dense",),
    "gpt2": ("mlp.c_proj",),
    "llama": ("down_proj",),
    "qwen2": ("down_proj",),
    "vit": ("fc2",),
}


def _targets(
    catalog: Catalog, given: tuple[str, ...], table: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    if given:
        return given
    if catalog.family not in table:
        known = sorted({linear.name.rpartition(".")[2] for linear in catalog.linears})
        text = f"no default for {catalog.family!r} models; name modules such as {', '.join(known)}"
        raise ConfigError(f"adapter.targets: {text}")
    return table[catalog.family]


def chosen(catalog: Catalog, targets: tuple[str, ...], layers: tuple[int, ...]) -> list[Linear]:
    """Linear maps whose name ends in a target, in the chosen layers (negative: from the top).

    Where there is an encoder and a decoder, layers are counted in each.
    """
    blocks = {block for n in layers for block in _blocks(catalog, n, "adapter.layers")}
    # A pooler or a head is no place for an adapter: it is frozen, or trained in full.
    layered = [x for x in catalog.linears if "layer." in x.block]
    inside = [x for x in layered if not blocks or x.block in blocks]
    if targets == ("all-linear",):
        return inside
    for target in targets:
        if not any(_ends_in(linear.name, target) for linear in inside):
            known = {linear.name.rpartition(".")[2] for linear in inside}
            raise ConfigError(f"adapter.targets: no module {target!r}; {nearest(target, known)}")
    return [x for x in inside if any(_ends_in(x.name, target) for target in targets)]


def _blocks(catalog: Catalog, layer: int, field: str) -> list[str]:
    """The block of a layer's index, which is negative from the top; one in each stack."""
    stacks = Counter(b.rpartition("layer.")[0] for b in catalog.blocks if "layer." in b)
    depth = min(stacks.values(), default=0)
    if not -depth <= layer < depth:
        raise ConfigError(f"{field} = {layer}: the backbone has layers 0 to {depth - 1}")
    return [f"{stack}layer.{layer % count}" for stack, count in stacks.items()]


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _require_layers(rank_name: str, rank: int) -> None:
    require(rank >= 1, f"adapter.{rank_name}", rank, "1 or more")


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
    ) -> None:
        _require_layers("rank", rank)
        require(alpha >= 0, "adapter.alpha", alpha, "0 (twice the rank) or more")
        for layer, own in ranks:
            text = f"1 to adapter.rank = {rank}"
            require(1 <= own <= rank, f"adapter.ranks of layer {layer}", own, text)
        require(init in ("random", "loftq"), "adapter.init", init, "random or loftq")
        self._loftq = init == "loftq"
        whole = targets in ((), ("all-linear",)) and not layers and not ranks
        if self._loftq and not whole:
            text = "every linear map has its start: no other targets, no layers and no ranks"
            raise ConfigError(f"adapter.init = {init!r}: {text}")
        self._rank, self._alpha, self._ranks = rank, alpha, ranks
        self._targets = ("all-linear",) if self._loftq else targets
        self._layers, self._rslora = layers, rslora

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """A and B for every target.

        Raises:
            ConfigError: a target names nothing, or there is no start of this rank to begin with.
        """
        return [
            LoraPart(x, rank, self._scaling(rank), self._start(catalog, x))
            for x, rank in self._chosen(catalog)
        ]

    def _start(self, catalog: Catalog, linear: Linear) -> Pair | None:
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
        found = chosen(catalog, _targets(catalog, self._targets, LORA_TARGETS), self._layers)
        own: dict[str, int] = {}
        for layer, rank in self._ranks:
            blocks = _blocks(catalog, layer, "adapter.ranks: layer")
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
        config: dict[str, object] = {
            "peft_type": "LORA",
            "r": self._rank,
            "lora_alpha": self._alpha_of(self._rank),
            "lora_dropout": 0.0,
            "use_rslora": self._rslora,
            "bias": "none",
            "fan_in_fan_out": catalog.family == "gpt2",
            "target_modules": [linear.name for linear, _ in found],
        }
        if lower:
            alphas = {name: self._alpha_of(rank) for name, rank in lower.items()}
            config |= {"rank_pattern": lower, "alpha_pattern": alphas}
        return config


class Ia3:
    """Learned factors on keys, values and feed-forward inputs (IA3, Liu et al., NeurIPS 2022).

    Args:
        targets: modules whose output is scaled; empty for PEFT's choice.
        feedforward: modules whose input is scaled; empty for PEFT's choice.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = True

    def __init__(
        self,
        targets: tuple[str, ...] = (),
        feedforward: tuple[str, ...] = (),
        layers: tuple[int, ...] = (),
    ) -> None:
        self._targets, self._feedforward, self._layers = targets, feedforward, layers

    def _choose(self, catalog: Catalog) -> tuple[list[Linear], list[Linear]]:
        defaults = {family: pair[0] for family, pair in IA3_TARGETS.items()}
        inputs = {family: pair[1] for family, pair in IA3_TARGETS.items()}
        outer = chosen(catalog, _targets(catalog, self._targets, defaults), self._layers)
        inner = chosen(catalog, _targets(catalog, self._feedforward, inputs), self._layers)
        return [linear for linear in outer if linear not in inner], inner

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """The factors of every target."""
        outer, inner = self._choose(catalog)
        parts = [Ia3Part(x, before=False) for x in outer] + [Ia3Part(x, before=True) for x in inner]
        order = {linear.name: i for i, linear in enumerate(catalog.linears)}
        return sorted(parts, key=lambda part: order[part.module])

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """``IA3Config``."""
        outer, inner = self._choose(catalog)
        return {
            "peft_type": "IA3",
            "target_modules": [x.name for x in (*outer, *inner)],
            "feedforward_modules": [x.name for x in inner],
            "fan_in_fan_out": catalog.family == "gpt2",
        }


class BitFit:
    """Train the biases of the backbone (BitFit, Ben Zaken et al., ACL 2022).

    Args:
        layers: indices of transformer layers, negative from the top; empty for all.
        norms: train the biases of normalisations too.
    """

    affine = True

    def __init__(self, layers: tuple[int, ...] = (), norms: bool = True) -> None:
        self._layers, self._norms = layers, norms

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """Every bias in the chosen layers."""
        blocks = {linear.block for linear in chosen(catalog, ("all-linear",), self._layers)}
        modules = (*catalog.linears, *(catalog.norms if self._norms else ()))
        found = [(m, catalog.frozen(m.name).bias) for m in modules if m.block in blocks]
        parts = [BiasPart(module, bias) for module, bias in found if bias is not None]
        if not parts:
            raise ConfigError(f"adapter bitfit: {catalog.family!r} models have no biases to train")
        order = {block: i for i, block in enumerate(catalog.blocks)}
        return sorted(parts, key=lambda part: order[part.linear.block])

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}


class Bottleneck:
    """Bottleneck adapters after the feed-forward output (Houlsby et al., ICML 2019).

    FedAdapter's placement (after the feed-forward only) is the default; add the attention's output
    projection to `targets` for Houlsby's.

    Args:
        width: units in the bottleneck.
        units: bottlenecks of that width beside each other, tagged ``unit.0`` and so on, so that a
            stage may train some of them; the others, while they are new, change nothing.
        targets: modules after which an adapter is put; empty for the feed-forward output.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = False

    def __init__(
        self,
        width: int = 16,
        targets: tuple[str, ...] = (),
        layers: tuple[int, ...] = (),
        units: int = 1,
    ) -> None:
        _require_layers("width", width)
        _require_layers("units", units)
        self._width, self._units, self._targets, self._layers = width, units, targets, layers

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """A branch per target; an attention output is not taken for a feed-forward one."""
        targets = _targets(catalog, self._targets, FEED_FORWARD)
        found = chosen(catalog, targets, self._layers)
        if not self._targets:
            found = [linear for linear in found if ".attention." not in linear.name]
        return [BottleneckPart(linear, self._width, self._units) for linear in found]

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}


class HeadOnly:
    """Nothing inside the backbone: only the task's head trains (linear probing)."""

    affine = True

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """None."""
        return []

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}
