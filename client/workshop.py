"""The tasks of a job done on this device, whatever goes wrong in them."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fedloom.client.contents import Source
from fedloom.client.engines import Bench
from fedloom.client.held import Coming, HeldModel
from fedloom.client.journal import Journal
from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, read_order
from fedloom.client.materials import Materials
from fedloom.client.outbox import Finished
from fedloom.client.reasons import in_words, short
from fedloom.client.refusals import is_passing, passing
from fedloom.client.settings import AUTO, ClientSettings
from fedloom.client.stopping import Stop, Stopped
from fedloom.core.errors import FedloomError, TransferError
from fedloom.protos.federation_pb2 import Blob, Holding, Task
from fedloom.tuning.data import Corpus

if TYPE_CHECKING:
    from fedloom.client.engines import Working
    from fedloom.client.split_work import Connect, SplitWork

__all__ = ["Far", "Workshop"]

Far: TypeAlias = "Callable[[Manifest], Connect]"

_BEGINNINGS = 3
"""Times that a task is begun: what ends the process so often is too much for the device."""

_NOT_OF_THE_TASK = ("abandoned", "protocol")


class Workshop:
    """Where tasks become results.

    Args:
        folder: for contents and notes.
        settings: the owner's.
        federation: that the device has joined; empty for whatever the server says.
        stop: ends a computation.
        far: what begins sessions with the far side of a job whose model is split.

    Attributes:
        failure: a ticket that is given up (or empty) and why, for the next check-in.
        num_examples: training examples; 0 while the job is not known or the data do not fit it.
        tier: what kind of device this is; where memory decides, once the job is ready.
    """

    def __init__(
        self, folder: Path, settings: ClientSettings, *, federation: str, stop: Stop, far: Far
    ) -> None:
        self._folder, self._settings, self._stop, self._far = folder, settings, stop, far
        self._at_hand = Materials(folder, settings, federation)
        self._journal = Journal(folder / "task.json")
        self._worker: Working | None = None
        self._bottom: int | None = None  # blocks below the far ones that the worker has
        self._held: HeldModel | None = None
        self._gone = ""  # ticket of a task whose model was not offered any more
        self.failure = ("", "")
        self.tier = "" if settings.tier == AUTO else settings.tier

    @property
    def num_examples(self) -> int:
        """Training examples; 0 while the job is not known or the data do not fit it."""
        return self._at_hand.num_examples

    @property
    def holds(self) -> Holding | None:
        """The model that is kept for the job; None for none."""
        held = self._held
        if held is None or not held.version:
            return None
        return Holding(version=held.version, digest=held.digest)

    @property
    def resync(self) -> bool:
        """Whether the server is to be asked for all of the model."""
        return self._held is not None and self._held.resync

    def refresh(self) -> None:
        """Read the data again at the next check-in where the file has changed."""
        if self._at_hand.refresh():
            self._worker = None

    def prepare(self, job: Blob, source: Source) -> None:
        """Make a job ready, where it is another than before: backbone and data, no model yet.

        What does not fit is logged and becomes the `failure`; the device then has no examples.

        Raises:
            TransferError: something did not come; trying again goes on.
            Stopped: the device stops.
        """
        at_hand = self._at_hand
        if job.sha256 == at_hand.job:
            return
        self._worker = None
        try:
            manifest = at_hand.fetch(job, source)
            began = time.monotonic()
            with self._stop.interruptible():
                self._choose_tier(manifest, at_hand.read(manifest))
        except TransferError as error:
            if error.code != "wrong-federation":
                raise
            self._unfit(error)
        except FedloomError as error:
            self._unfit(error)
        else:
            seconds = time.monotonic() - began
            text = "job %s: %d training examples, read in %.1f s"
            log.info(text, manifest.job.name, self.num_examples, seconds)
        at_hand.job = job.sha256
        self._held = HeldModel(self._folder / "held", job.sha256)

    def work(self, task: Task, source: Source) -> tuple[Finished, bytes] | None:
        """Do a task; None where it is given up (`failure` says why).

        Raises:
            TransferError: the model did not come; the same task is given again.
            Stopped: the device stops.
        """
        began = time.monotonic()
        try:
            model = self._at_hand.contents.fetch(task.model.sha256, task.model.size, source)
        except TransferError as error:
            if is_passing(error) or error.code in _NOT_OF_THE_TASK:
                raise
            # A server that was started again offers a form of the model when it is asked for work.
            if error.code == "no-such-content" and self._gone != task.ticket:
                self._gone = task.ticket
                log.warning("%s; asking for the task again", error)
                return None
            self._give_up(task, str(error))
            return None
        coming = time.monotonic() - began
        times = self._journal.begin(task.ticket, task.attempt)
        if times > _BEGINNINGS:
            text = f"the process was ended {times - 1} times in this task: too little memory?"
            self._give_up(task, text)
            return None
        try:
            with self._stop.interruptible():
                finished, payload = self._made(task, model.read_bytes())
            return replace(finished, download_seconds=coming), payload
        except Stopped:
            self._journal.end()  # it was not the task that ended the process
            raise
        except FedloomError as error:
            self._failed(task, error)
        except Exception as error:  # a task must not end the device, whatever is in it
            self._give_up(task, in_words(error), trace=error)
        finally:
            self._at_hand.clean()
        return None

    def done(self) -> None:
        """The result of the task is safe."""
        self._journal.end()

    def _made(self, task: Task, frame: bytes) -> tuple[Finished, bytes]:
        manifest, corpus = self._at_hand.ready()
        order = read_order(task.order, manifest, allow=self._settings.allow)
        worker = self._at_work(manifest, corpus, order.task.bottom)
        number = order.task.round
        began = time.monotonic()
        coming = Coming(task.base if task.steps else None, task.keeps, task.digest)
        if task.kind == "evaluate":
            finished = worker.evaluate(order, task.ticket, frame, coming)
            payload = b""
        else:
            finished, payload = worker.train(order, task.ticket, frame, coming)
        seconds = time.monotonic() - began
        finished = replace(finished, seconds=finished.seconds or seconds)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in sorted(finished.metrics.items()))
        facts = {"round": number, "ticket": task.ticket, "seconds": seconds, **finished.metrics}
        text = "round %d: %s %d examples in %.1f s (%s)"
        does = "evaluated on" if task.kind == "evaluate" else "trained on"
        log.info(text, number, does, finished.num_examples, seconds, shown, extra={"facts": facts})
        if task.max_bytes and finished.size > task.max_bytes:
            text = f"the update has {finished.size:,} bytes, {task.max_bytes:,} are taken"
            raise TransferError(text, code="too-large")
        return finished, payload

    def _at_work(self, manifest: Manifest, corpus: Corpus, bottom: int | None) -> "Working":
        """The worker, made when the first task comes: this loads the engine and the model.

        It is made again where a task cuts a split model elsewhere.
        """
        if self._worker is None or bottom != self._bottom:
            began, self._worker = time.monotonic(), None
            place = self._at_hand.backbone
            own = Bench(manifest, place, corpus, self._settings, self._folder, self._held)
            self._worker = own.worker(lambda: self._split(manifest, bottom))
            self._bottom = bottom
            log.info("the model is loaded, in %.1f s", time.monotonic() - began)
        return self._worker

    def _split(self, manifest: Manifest, bottom: int | None) -> "SplitWork | None":
        if manifest.job.split.mode == "none":
            return None
        from fedloom.client.split_work import SplitWork

        own = self._at_hand.backbone, self._far(manifest), self._folder
        return SplitWork(manifest.job, self._at_hand.job, *own, bottom)

    def _choose_tier(self, manifest: Manifest, corpus: Corpus) -> None:
        """Let memory say what kind of device this is, where its owner leaves it to that.

        Raises:
            ModelError: it holds none of them.
        """
        job = manifest.job
        if self._settings.tier != AUTO or not job.tiers or job.split.mode != "none":
            return
        from fedloom.client.tiers import chosen

        found = self._at_work(manifest, corpus, None).fits()
        self.tier = chosen(found)
        how = next(str(fit) for fit in found if fit.tier == self.tier)
        log.info("of the job's tiers this device is %r: %s", self.tier, how)

    def _unfit(self, error: FedloomError) -> None:
        log.error("this device cannot take part in the job: %s", error)
        self._at_hand.corpus = None
        self.failure = ("", short(str(error)))

    def _failed(self, task: Task, error: FedloomError) -> None:
        """A task was not done.

        Raises:
            TransferError: it may be later; the same task is given again.
        """
        code = getattr(error, "code", "")
        later = passing(error)
        if code == "resync":  # the same task comes again, with another form of the model
            log.warning("%s", error)
            self._journal.end()
        elif later is not None or code == "abandoned":
            self._journal.end()
            raise later or error
        elif code == "plan":
            log.info("a task is left: its round is over (%s)", error)
            self._journal.end()
            self.failure = (task.ticket, short(str(error)))
        else:
            self._give_up(task, str(error))

    def _give_up(self, task: Task, text: str, *, trace: Exception | None = None) -> None:
        log.error("a task is given up: %s", text, exc_info=trace)
        self._journal.end()
        self.failure = (task.ticket, short(text))
        self._worker = None  # whatever state it is in
        gc.collect()
