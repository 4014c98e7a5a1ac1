"""Where in a backbone an adapter is put: linear maps by their names and layers."""

from collections import Counter
from collections.abc import Mapping

from fedloom.backbones.base import Linear
from fedloom.core.errors import ConfigError, nearest
from fedloom.tuning.base import Catalog

__all__ = ["blocks_at", "chosen", "targets_for"]


def targets_for(
    catalog: Catalog, given: tuple[str, ...], table: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The module names that are given, or those of the family in a table.

    Raises:
        ConfigError: none are given, and the table has none of the family.
    """
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
    blocks = {block for n in layers for block in blocks_at(catalog, n, "adapter.layers")}
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


def blocks_at(catalog: Catalog, layer: int, field: str) -> list[str]:
    """The block of a layer's index, which is negative from the top; one in each stack.

    Raises:
        ConfigError: the backbone has no such layer; the message says so of `field`.
    """
    stacks = Counter(b.rpartition("layer.")[0] for b in catalog.blocks if "layer." in b)
    depth = min(stacks.values(), default=0)
    if not -depth <= layer < depth:
        raise ConfigError(f"{field} = {layer}: the backbone has layers 0 to {depth - 1}")
    return [f"{stack}layer.{layer % count}" for stack, count in stacks.items()]


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
