"""FedPerfix's trainable model: layers in full, which are shared, beside an adapter for each client.

Sun, Mendieta, Luo, Wu and Chen, "FedPerfix: Towards Partial Model Personalization of Vision
Transformers in Federated Learning", ICCV 2023: nothing of the backbone is frozen, and what is a
client's own stands beside it. Here layers may be chosen; what they do not hold stays frozen.
"""

from collections.abc import Mapping, Sequence

from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.full import Full
from fedloom.tuning.kv_parallel import KvParallel

__all__ = ["Perfix"]


class Perfix:
    """`Full` and `KvParallel` in the same layers.

    Args:
        mid: units in the middle of the adapter.
        scale: what it is multiplied by.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = False

    def __init__(self, mid: int = 256, scale: float = 1.5, layers: tuple[int, ...] = ()) -> None:
        self._full, self._kv = Full(layers), KvParallel(mid, scale, layers=layers)

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """Those of both, layer by layer.

        Raises:
            ConfigError: the family's keys and values, or a kind of norm, are not known.
        """
        order = {block: i for i, block in enumerate(catalog.blocks)}
        both = [*self._full.parts(catalog), *self._kv.parts(catalog)]
        return sorted(both, key=lambda part: order[part.specs[0].block])

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}
