"""Far sides in this process, as a device has sessions with them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.tuning.far import FarLosses
from fedloom.tuning.near import NearStage
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places


@dataclass
class Near:
    """A far side in this process, as a device has a session with it."""

    far: NearStage
    stage: Stage
    before: Callable[[str], object] = lambda _: None
    calls: list[str] = field(default_factory=list)
    moved: Tensor | None = None

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        self._note("forward")
        return self.far.forward(step, hidden, packing, train=train)

    def backward(self, step: int, grad: Tensor) -> Tensor:
        self._note("backward")
        return self.far.backward(step, grad)

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        self._note("losses")
        return self.far.losses(step, hidden, packing, places, train=train)

    def sync(self) -> int:
        self._note("sync")
        return self.stage.version(self.far.session)

    def close(self) -> None:
        self._note("close")
        self.moved = self.far.close()

    def drop(self) -> None:
        self._note("drop")

    def _note(self, what: str) -> None:
        self.calls.append(what)
        self.before(what)
