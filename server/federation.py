"""A federation's server, assembled: its state folder, its parts, and the thread of its rounds."""

import logging
import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom.core.errors import RunError
from fedloom.core.layout import ALL
from fedloom.core.types import ClientId
from fedloom.results.observe import Observer, RunInfo, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.security.authority import Authority
from fedloom.server.board import Board, Stopping
from fedloom.server.committer import Committer
from fedloom.server.contents import Content, Contents
from fedloom.server.counting import Counting
from fedloom.server.course import Course, begin, follow
from fedloom.server.database import Database
from fedloom.server.failpoints import reach
from fedloom.server.intake import Intake
from fedloom.server.ledger import Ledger
from fedloom.server.live import Live
from fedloom.server.live_round import Stopped, pause
from fedloom.server.manifest import manifest
from fedloom.server.plan import Finished, Plan
from fedloom.server.refusing import TROUBLE
from fedloom.server.register import Register
from fedloom.server.room import is_full
from fedloom.server.segments import Segments
from fedloom.server.selection import count
from fedloom.server.standing import Sign, Standing, write_standing
from fedloom.server.uploads import Uploads

if TYPE_CHECKING:
    from fedloom.server.split_hosting import Hosting

__all__ = ["Federation"]

log = logging.getLogger("fedloom.server")
_NO_ROOM = 2.0
"""Seconds between tries to write while the disk is full."""


@dataclass(eq=False)
class Federation:
    """Everything between the ports and the disk. Make it by `open`.

    Attributes:
        plan: the job.
        folder: the state.
        authority: signs certificates.
        database: closed last.
        register: tokens and clients.
        ledger: the open round.
        committer: writes results.
        board: where the two threads meet.
        contents: what may be downloaded.
        intake: takes results.
        counting: counts for whoever watches.
        live: plays rounds.
        job: address of the manifest.
        hosting: of the far side of a split model; None where nothing is hosted.
        told: whether it is told to end.
    """

    plan: Plan
    folder: Path
    authority: Authority
    database: Database
    register: Register
    ledger: Ledger
    committer: Committer
    board: Board
    contents: Contents
    intake: Intake
    counting: Counting
    live: Live
    job: Content
    hosting: "Hosting | None" = None
    told: bool = False

    @staticmethod
    def open(plan: Plan, observer: Observer) -> "Federation":
        """The federation of a plan, as its state folder has it.

        Raises:
            RunError: another server works in the folder, or it cannot be used.
        """
        server = plan.job.server
        folder = Path(server.directory).expanduser()
        database = Database.open(folder, exclusive=True)
        authority = Authority.open(folder / "authority")
        register = Register(database, quarantine=server.quarantine)
        ledger, board, contents = Ledger(database), Board(), Contents()
        opened = ledger.current()
        segments = Segments(folder / "segments", ledger.places())
        committer = Committer(ledger, segments, durable=server.durable)
        uploads = Uploads(folder / "staging", server.inflight_mb << 20)
        uploads.retain([t.id for t in opened.tickets.values()] if opened else [])
        limits = server.attempts, server.max_examples
        intake = Intake(board, ledger, register, committer, uploads, *limits)
        files = {name: contents.put_file(path) for name, path in plan.files.items()}
        text = manifest(plan, authority.federation, files)
        job, counting = contents.put_bytes(text), Counting()
        live = Live(
            plan,
            board,
            intake,
            ledger,
            register,
            segments,
            contents,
            observer,
            Sign(folder),
            Standing(plan.job.name, rounds=plan.job.rounds),
            counting,
            hosting := _hosting(plan, folder, job),
        )
        return Federation(
            *(plan, folder, authority, database, register, ledger, committer, board, contents),
            *(intake, counting, live, job, hosting),
        )

    def start(self, directory: RunDirectory, observer: Observer) -> "Future[Summary]":
        """Begin or go on with the rounds, in a thread; how it ended.

        The future holds what the rounds raised, where they did.
        """
        ended: Future[Summary] = Future()

        def run() -> None:
            try:
                ended.set_result(self._run(directory, observer))
            except BaseException as error:  # whoever waits for the future decides
                ended.set_exception(error)

        threading.Thread(target=run, name="rounds", daemon=True).start()
        return ended

    def stop(self) -> None:
        """Let the rounds end where they are; a server that is started again goes on there."""
        self.told = True
        self.board.events.put(Stopping())

    def renew(self, client: ClientId, csr: bytes) -> bytes:
        """Another certificate for an enrolled client (PEM).

        Raises:
            IdentityError: the request (DER) does not hold.
        """
        hours = self.plan.job.server.certificate_hours
        issued = self.authority.sign(csr, client, hours=hours)
        self.register.renewed(client, issued.serial)
        return issued.certificate

    def tidy(self) -> None:
        """Write down what can wait, give up what lies idle; in the loop that answers clients."""
        self._flush()
        self.intake.uploads.sweep()
        write_standing(self.folder, self.live.standing)  # a sign of life

    def close(self) -> None:
        """Let go of the state folder, everything written."""
        if self.hosting is not None:
            self.hosting.close()
        self.committer.close()
        self.live.segments.close()
        self._flush()
        self.database.close()

    def _flush(self) -> None:
        """Write what clients said and did; on a disk that is full, another time."""
        try:
            self.register.flush()
            self.ledger.flush()
        except sqlite3.Error as error:
            log.warning("not written yet: %s", error)

    def _run(self, directory: RunDirectory, observer: Observer) -> Summary:
        job, start = self.plan.job, self.plan.start
        course = begin(directory, start, seed=job.seed)
        self._forget_others(course)
        observer.started(
            RunInfo(
                name=job.name,
                directory=directory.path,
                rounds=job.rounds,
                stages=tuple(stage.name for stage in job.stages),
                clients=len(self.register.clients()),
                classes=len(self.plan.classes),
                trainable=start.layout.select(ALL).size,
                backbone=job.backbone.name,
                resumed_from=course.done,
            )
        )
        course, interrupted = self._follow(course, directory, observer)
        return self._close(course, directory, observer, interrupted=interrupted)

    def _follow(
        self, course: Course, directory: RunDirectory, observer: Observer
    ) -> tuple[Course, bool]:
        """Play what is left; where it stands then, and whether the server was told to end.

        Where the disk is full the run goes on from what is on it, as soon as there is room.
        """
        said = ""
        while True:
            try:
                follow(self.plan.job, course, self.live, directory, observer)
                return course, False
            except Stopped:
                return course, True
            except TROUBLE as error:
                if not is_full(error):
                    raise
                if str(error) != said:
                    said = str(error)
                    observer.note(f"{said}; going on when there is room")
            course = self._again(directory)

    def _again(self, directory: RunDirectory) -> Course:
        """Where the run stands on the disk, once that can be written again, or the server ends."""
        while True:
            try:
                pause(self.board, _NO_ROOM)
                directory.rewind()
            except Stopped:
                self.stop()  # so that the rounds hear of it, too
            except RunError as error:
                if not is_full(error):
                    raise
                continue
            return begin(directory, self.plan.start, seed=self.plan.job.seed)

    def _forget_others(self, course: Course) -> None:
        """Drop an open round that is not this run's next: it is of another run, or done."""
        opened = self.ledger.current()
        due = (course.done, course.done + 1)
        if opened is not None and opened.number in due and self.ledger.job == self.job.sha256:
            return
        if opened is not None:
            log.warning("round %d in the ledger is of another run: dropped", opened.number)
        self.ledger.clear(self.job.sha256)
        if self.hosting is not None:
            self.hosting.clear()
        reach("rounds-cleared")

    def _close(
        self, course: Course, directory: RunDirectory, observer: Observer, *, interrupted: bool
    ) -> Summary:
        finished, adapter = Finished(), None
        if not interrupted and self.plan.finishing:
            finished = self.plan.finishing(course.state.params, directory.adapter)
            adapter = directory.adapter
        summary = Summary(
            before=course.before,
            after=finished.test or course.evaluated,
            references=finished.references,
            rounds=course.done,
            elapsed=course.elapsed,
            directory=directory.path,
            adapter=adapter,
            spent=course.spent,
            interrupted=interrupted,
        )
        directory.write_summary(summary)
        reach("summary-written")
        if not interrupted:  # the last round's payloads serve no one any more
            self.ledger.clear(self.job.sha256)
            self.committer.sweep(over=True)
            if self.hosting is not None:
                self.hosting.clear()
        self.live.ended(course.done, interrupted=interrupted)
        observer.finished(summary)
        return summary


def _hosting(plan: Plan, folder: Path, job: Content) -> "Hosting | None":
    """What is hosted of a split model, beside the rest of the state."""
    if plan.split is None or not plan.split.hosted:
        return None
    from fedloom.server.split_hosting import Hosting  # needs torch

    most = max(stage.clients_per_round for stage in plan.job.stages)
    asked = count(plan.job.server.over_select, most)
    return Hosting(plan.split, folder / "split", job.sha256, asked)
