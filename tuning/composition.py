"""An adapter on a backbone: the parts, their layout, and the sites that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fedloom.backbones.base import Attachment, Site
from fedloom.core.layout import Layout
from fedloom.core.types import Params
from fedloom.tuning.base import Part

if TYPE_CHECKING:
    from fedloom.tuning.store import Store

__all__ = ["Composition"]


@dataclass(frozen=True)
class Composition:
    """The parts of an adapter and a head, in the order of the layout."""

    parts: tuple[Part, ...]

    @cached_property
    def layout(self) -> Layout:
        """Every tensor of every part."""
        return Layout(tuple(spec for part in self.parts for spec in part.specs))

    def initial(self, seed: int) -> Params:
        """The model before the first round, from the run's seed."""
        tensors = {name: t for part in self.parts for name, t in part.initial(seed).items()}
        return Params(self.layout, self.layout.flatten(dict(tensors)))

    def active(self, params: Params, trained: Layout) -> tuple[Part, ...]:
        """The parts that train, or that change the model as it is."""
        tensors = self.layout.unflatten(params.vector)
        return tuple(
            part
            for part in self.parts
            if any(spec.name in trained for spec in part.specs) or not part.is_identity(tensors)
        )

    @staticmethod
    def sites(parts: Sequence[Part], store: Store) -> dict[str, Site]:
        """What is attached at each module, over the rows of a store."""
        from fedloom.tuning.attachments import Chain

        found: dict[tuple[str, bool], list[Attachment]] = {}
        for part in parts:
            found.setdefault((part.module, part.before), []).append(part.attach(store))
        chains = {
            key: several[0] if len(several) == 1 else Chain(several)
            for key, several in found.items()
        }
        modules = dict.fromkeys(module for module, _ in chains)
        return {
            module: Site(chains.get((module, True)), chains.get((module, False)))
            for module in modules
        }
