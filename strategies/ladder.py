"""How deep and how wide an adapter trains: the steps that FedAdapter climbs."""

from dataclasses import dataclass, replace

from fedloom.core.layout import Layout, Selector

__all__ = ["Configuration", "Ladder"]


@dataclass(frozen=True)
class Configuration:
    """What of an adapter trains.

    Attributes:
        depth: layers, from the top.
        units: of each bottleneck.
    """

    depth: int
    units: int

    def deeper(self, step: int) -> "Configuration":
        """The same with more layers."""
        return replace(self, depth=self.depth + step)

    def wider(self) -> "Configuration":
        """The same with one more unit."""
        return replace(self, units=self.units + 1)


@dataclass(frozen=True)
class Ladder:
    """The layers and units that an adapter has.

    Attributes:
        layout: the model's.
        layers: its blocks that are layers, from the lowest.
        units: tags of the units, from the first.
    """

    layout: Layout
    layers: tuple[str, ...]
    units: tuple[str, ...]

    @staticmethod
    def of(layout: Layout) -> "Ladder":
        """The ladder of a model."""
        layers = dict.fromkeys(spec.block for spec in layout if "layer." in spec.block)
        tags = {tag for spec in layout for tag in spec.tags if tag.startswith("unit.")}
        units = sorted(tags, key=lambda tag: int(tag.removeprefix("unit.")))
        return Ladder(layout, tuple(layers), tuple(units))

    def within(self, wanted: Configuration) -> Configuration:
        """The nearest configuration that there is; without layers, one unit is as good as more."""
        depth = min(wanted.depth, len(self.layers))
        return Configuration(depth, min(wanted.units, max(len(self.units), 1)))

    def without(self, own: Configuration) -> Selector:
        """Patterns that take away what a configuration does not train."""
        lower = self.layers[: len(self.layers) - own.depth]
        return tuple(f"!{name}" for name in (*lower, *self.units[own.units :]))

    def part(self, own: Configuration) -> Layout:
        """The tensors that a configuration trains, those outside of layers among them."""
        return self.layout.select(("*", *self.without(own)))
