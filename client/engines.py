"""What runs a model on this device: torch, or onnxruntime where there is no torch.

Nothing here loads either before a worker is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedloom.client.held import Coming, HeldModel
from fedloom.client.manifest import Manifest, Order, check_inside
from fedloom.client.outbox import Finished
from fedloom.client.settings import ClientSettings
from fedloom.client.which_engine import engine_of
from fedloom.tuning.data import Corpus

if TYPE_CHECKING:
    from fedloom.client.split_work import SplitWork
    from fedloom.client.tiers import Fit

__all__ = ["Bench", "Working"]


class Working(Protocol):
    """Does the tasks of one job."""

    def train(
        self, order: Order, ticket: str, frame: bytes, coming: Coming
    ) -> tuple[Finished, bytes]:
        """Do a task of training; the result and its payload."""
        ...

    def fits(self) -> "list[Fit]":
        """How each kind of device would train here."""
        ...

    def evaluate(self, order: Order, ticket: str, frame: bytes, coming: Coming) -> Finished:
        """Evaluate the global model on the device's own examples."""
        ...


@dataclass(frozen=True, eq=False)
class Bench:
    """What a worker is made of.

    Attributes:
        manifest: the job.
        backbone: its folder.
        corpus: the device's examples.
        settings: how much of the device it may take.
        folder: for contents and notes.
        held: the model that is kept from one task to the next; None for none.
    """

    manifest: Manifest
    backbone: Path
    corpus: Corpus
    settings: ClientSettings
    folder: Path
    held: HeldModel | None

    def worker(self, split: "Callable[[], SplitWork | None]") -> Working:
        """Load the engine and the model.

        Args:
            split: how tasks over a split model are done; asked where torch runs it.

        Raises:
            ConfigError, ModelError, LayoutError: this device cannot run the job.
        """
        own = self.manifest, self.backbone, self.corpus, self.settings
        if engine_of(self.settings) == "onnx":  # makes no component but those that it knows
            from fedloom.client.onnx_worker import OnnxWorker

            return OnnxWorker(*own, self.held)
        from fedloom.client.worker import Worker

        check_inside(self.manifest, allow=self.settings.allow)
        return Worker(*own, self.folder, self.held, split())
