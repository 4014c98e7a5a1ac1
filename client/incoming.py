"""The model of a task, from what came down for it. Nothing here loads torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from fedloom.client.held import Coming, HeldModel
from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, Order
from fedloom.codecs.base import Codec
from fedloom.codecs.branches import branch_received
from fedloom.codecs.downlink import follow
from fedloom.codecs.exchange import changed, received
from fedloom.core.errors import TransferError
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.core.step_ledger import digest_of
from fedloom.core.types import Briefing, Params, Payload

__all__ = ["Incoming"]


def _all(part: Layout) -> Layout:
    return part


@dataclass(frozen=True, eq=False)
class Incoming:
    """What makes a model of a frame.

    Attributes:
        manifest: the job.
        start: the model before the first round.
        held: the model that is kept from one task to the next; None for none.
        sent: of what a job exchanges, what comes to this device.
    """

    manifest: Manifest
    start: Params
    held: HeldModel | None
    sent: Callable[[Layout], Layout] = _all

    def received(self, order: Order, frame: bytes, coming: Coming) -> tuple[Params, Briefing]:
        """The model, and what came beside it; it is kept where that is asked.

        Args:
            order: of the task.
            frame: the global model's exchanged part, or what leads to it.
            coming: what the server says of it.

        Raises:
            CodecError: the frame is not of this model.
            TransferError: what comes of the frame is not the server's model (``resync``).
        """
        down = cast(Codec, create("codecs", self.manifest.job.codec_down))
        payload = Payload(down.name, frame)
        if order.task.branch:
            return branch_received(self.start, down, payload)
        stages = [stage.selectors for stage in self.manifest.job.stages[: order.stage + 1]]
        part, rank = self.sent(changed(stages, self.start.layout)), order.task.rank
        if rank is not None and not coming.digest:
            return received(self.start, down, payload, part, rank=rank)
        base = self._base(coming)
        found = follow(self.start, down, payload, part, base=base, seed=order.task.seed)
        if self.held is not None and coming.digest:
            if digest_of(found.params.vector) == coming.digest:
                self.held.keep(coming.keeps, found.kept)
            elif base is None:
                log.warning("the model that came whole is not the server's to the last bit")
                self.held.drop()
            else:
                raise self._astray("what came of its last rounds is not the server's model")
        return found.params, found.briefing

    def _base(self, coming: Coming) -> Params | None:
        """The version that what came down starts from; None where it starts from nothing."""
        if coming.base is None:
            return None
        if coming.base == 0:
            return self.start
        known = self.held is not None and self.held.version == coming.base
        params = self.held.params(self.start.layout) if self.held is not None and known else None
        if params is None:
            raise self._astray(f"version {coming.base} of the model is not here")
        return params

    def _astray(self, text: str) -> TransferError:
        if self.held is not None:
            self.held.drop()
        return TransferError(f"{text}; it is asked for all of it", code="resync", retry_after=0.0)
