"""A stage of far blocks, as the split service asks for it: sessions in turn, each its own steps."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.tuning.far import FarLosses
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places

__all__ = ["StageHost"]


@dataclass(frozen=True, eq=False)
class StageHost:
    """A `Host` of one stage: modes ``v1``, ``v2`` and ``sequential``. For one thread.

    Attributes:
        stage: the far blocks.
    """

    stage: Stage

    def version(self, key: str) -> int:
        """See `Host.version`."""
        return self.stage.version(key)

    def lane(self, key: str) -> str:
        """See `Host.lane`."""
        return key if self.stage.options.mode == "v1" else ""

    def kept(self, key: str) -> dict[str, Tensor]:
        """See `Host.kept`."""
        return self.stage.lane(key).state()

    def moved(self, key: str) -> Tensor:
        """See `Host.moved`."""
        return self.stage.lane(key).store.deltas()

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        """See `Host.load`."""
        self.stage.lane(key).load(state)
        if key:
            self.stage.skip(key, done)

    def join(self, key: str) -> None:
        """See `Host.join`."""
        self.stage.open(key)

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """See `Host.forward`."""
        return self.stage.forward(key, step, hidden, packing, train=train)

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        """See `Host.backward`."""
        return self.stage.backward(key, step, grad)

    def losses(
        self,
        key: str,
        step: int,
        hidden: Tensor,
        packing: Packing,
        places: Places,
        *,
        train: bool,
    ) -> tuple[FarLosses, Tensor]:
        """See `Host.losses`."""
        return self.stage.losses(key, step, hidden, packing, places, train=train)

    def evict(self, key: str, step: int | None = None) -> None:
        """See `Host.evict`."""
        self.stage.evict(key, step)

    def leave(self, key: str) -> None:
        """See `Host.leave`."""
        self.stage.close(key)
