"""The adapters with a batched form. Names, starts and the saved format are PEFT's where it has one.

Any other method of the `peft` library runs through `fedloom.tuning.peft_bridge` with one client at
a time.
"""

from collections.abc import Mapping, Sequence

from fedloom.backbones.base import Linear
from fedloom.core.errors import ConfigError, require
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.parts import BiasPart, BottleneckPart, Ia3Part
from fedloom.tuning.placing import chosen, targets_for

__all__ = ["BitFit", "Bottleneck", "HeadOnly", "Ia3"]

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


def _require_layers(rank_name: str, rank: int) -> None:
    require(rank >= 1, f"adapter.{rank_name}", rank, "1 or more")


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
        outer = chosen(catalog, targets_for(catalog, self._targets, defaults), self._layers)
        inner = chosen(catalog, targets_for(catalog, self._feedforward, inputs), self._layers)
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
        targets = targets_for(catalog, self._targets, FEED_FORWARD)
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
