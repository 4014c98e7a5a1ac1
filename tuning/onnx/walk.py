"""One client's local steps along random directions, by forward passes alone.

What `fedloom.tuning.learners.walk` does for a chunk of clients: the same batches, the same
directions to the bit, the same integers but for the rounding of the losses, and the exact gradient
of the head, which the forward pass gives away.
"""

import time

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Rows
from fedloom.tuning.learners.choice import Choice, Chosen
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learners.plain import check_work
from fedloom.tuning.learners.reach import FAR, reach
from fedloom.tuning.learners.tally import Tally
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.onnx.losses import BatchLosses
from fedloom.tuning.onnx.session import Near, OnnxSession

__all__ = ["check", "walk"]


def walk(
    learner: FiniteDifference,
    session: OnnxSession,
    params: Params,
    work: LocalWork,
    own: Assignment,
    briefing: Briefing,
) -> LocalResult:
    """Train one client.

    Args:
        learner: how it searches.
        session: the model.
        params: where it starts.
        work: the numbers of local training.
        own: the client.
        briefing: what the strategy sent beside the model.

    Raises:
        ConfigError: the work or the learner asks for what this way of training has not.
    """
    check(learner, work)
    one = _Walk(learner, session, params, work, own, briefing)
    for step, rows in enumerate(one.plan):
        one.take(step, rows)
    return one.result()


def check(learner: FiniteDifference, work: LocalWork) -> None:
    """Check that this way of training has what learner and work ask for.

    Raises:
        ConfigError: it has not.
    """
    check_work(work)
    text = "'scalars' with the engine onnx; others need torch"
    require(learner.send == "scalars", "learner.send", learner.send, text)
    require(not learner.guided, "learner.guided", True, "false with the engine onnx")


class _Walk:
    def __init__(
        self,
        learner: FiniteDifference,
        session: OnnxSession,
        params: Params,
        work: LocalWork,
        own: Assignment,
        briefing: Briefing,
    ) -> None:
        self._began = time.perf_counter()
        self._learner, self._session, self._work, self._own = learner, session, work, own
        self.plan = list(local_batches(own, work))
        trained, search = session.trained, learner.search
        self._exact = trained.present(search.exact)
        self._moved = _without(trained, self._exact)
        if any("head" not in spec.tags for spec in self._exact):
            text = "tensors of the head: the engine onnx has no other exact gradients"
            raise ConfigError(f"learner.exact = {search.exact}: {text}")
        if not self._moved.size:
            raise ConfigError("learner: every tensor that trains is exact; train more than those")
        self._choice = Choice(search, self._moved, [own], [self.plan], briefing)
        keys, slots = self._choice.keys[0], self._choice.slots(0)
        self._tally = Tally(search, work, moved=self._moved, keys=keys, slots=slots)
        self._start = params.layout.gather(params.vector, trained)
        self._values = self._start.copy()
        self._columns = _columns_of(trained, self._moved)
        self._known = _columns_of(trained, self._exact)
        self._drift = np.zeros(self._exact.size, dtype=np.float32)
        self._loss, self._correct, self._count, self._clipped = 0.0, 0, 0, 0
        self._broken = False
        self._h = learner.h or reach(self._moved.size)
        self._check_step()

    def _check_step(self) -> None:
        """h must move the weights; see `fedloom.tuning.learners.differences`."""
        weights = self._start[self._columns]
        least = self._h
        while (weights + np.float32(least) == weights).mean() > 0.5:
            least *= 2
        text = f"at least {least:g}: a smaller step leaves most weights as they are in float32"
        require(least == self._h, "h", self._h, text)

    def _check_losses(self, near: Near, rows: NDArray[np.int64]) -> None:
        """A step far below what the dimension says must change the losses by more than noise."""
        size = self._moved.size
        usual, least = reach(size), self._h
        if least * FAR >= usual:
            return
        z = 1 - 2 * (np.arange(size) % 3 == 0).astype(np.float32)
        one = Chosen(np.zeros(1, np.int64), np.zeros(1, np.int64), [rows[:4]], z[None], False)
        here = self._sums(near, one, 0.0)[0]
        noise = 16 * np.finfo(np.float32).eps * abs(here)
        while least < usual and abs(self._sums(near, one, least)[0] - here) <= noise:
            least *= 4
        text = f"at least {least:g}: a smaller step is lost in the last bits of the losses"
        require(least == self._h or least >= usual, "h", self._h, text)

    def take(self, step: int, rows: NDArray[np.int64]) -> None:
        """One local step."""
        near = self._session.near(rows)
        here = self._session.losses(near, self._values[None], [rows])
        self._note(here)
        if step == 0:
            self._check_losses(near, rows)
        room = max(self._session.at_once // max(self._session.tokens(rows), 1), 1)
        for chosen in self._choice.trials(step, [rows], min(room, self._learner.at_once)):
            slopes = self._slopes(near, chosen, here)
            self._broken |= not np.isfinite(slopes).all()
            self._clipped += self._tally.add(chosen.numbers, slopes)[1]
        rate = self._work.head_lr or self._work.lr
        self._drift -= np.float32(rate) * here.gradient(self._exact)
        self._values[self._known] = self._start[self._known] + self._drift
        self._values[self._columns] = self._tally.place(self._start[self._columns])

    def _note(self, here: BatchLosses) -> None:
        self._loss += float(here.sums.sum())
        self._correct += int(here.correct.sum())
        self._count += int(here.counts.sum())

    def _slopes(self, near: Near, chosen: Chosen, here: BatchLosses) -> NDArray[np.float64]:
        """Slopes along directions, float64 ``[r]``: of their share in the batch's mean loss."""
        found, distance = self._sums(near, chosen, self._h), self._h
        if self._learner.difference == "central":
            found, distance = found - self._sums(near, chosen, -self._h), 2 * self._h
        else:
            each = here.sums[0]
            found = found - (each if chosen.single else each.sum())
        return np.asarray(found / (distance * max(int(here.counts.sum()), 1)))

    def _sums(self, near: Near, chosen: Chosen, h: float) -> NDArray[np.float64]:
        """Sums of the losses at ``w + h z``, float64 ``[r]``."""
        found: list[NDArray[np.float64]] = []
        for some in self._passes(chosen.rows):
            values = np.repeat(self._values[None], len(chosen.rows[some]), axis=0)
            values[:, self._columns] += np.float32(h) * chosen.z[some]
            losses = self._session.losses(near, values, chosen.rows[some])
            found.append(losses.sums.sum(1))
        return np.concatenate(found)

    def _passes(self, rows: Rows) -> list[slice]:
        """Trials that run together: all, or of single examples as many as a pass has room for."""
        longest = max(self._session.tokens(r) for r in rows)
        step = max(self._session.at_once // max(longest, 1), 1)
        return [slice(start, start + step) for start in range(0, len(rows), step)]

    def result(self) -> LocalResult:
        """What came of it."""
        own, work, session = self._own, self._work, self._session
        layout, delta = self._exact, self._drift
        steps = self._tally.steps().bound(own.seed, round=own.round, client=own.client)
        if self._broken:  # said in the delta, as there may be nothing beside the steps
            layout = session.trained
            delta = np.full(layout.size, np.nan, dtype=np.float32)
        passes = 2 if self._learner.difference == "central" else 1
        forwards = 1 + passes * self._learner.directions
        tokens = session.tokens(np.concatenate(self.plan))
        return LocalResult(
            client=own.client,
            layout=layout,
            delta=delta,
            num_examples=min(len(own.rows), work.max_examples or len(own.rows)),
            metrics={
                "loss": self._loss / max(self._count, 1),
                "accuracy": self._correct / max(self._count, 1),
                "forwards": float(len(self.plan) * forwards),
                "clipped": float(self._clipped),
            },
            flops=session.flops(tokens) * forwards,
            seconds=time.perf_counter() - self._began,
            tokens=tokens,
            steps=None if self._broken else steps,
        )


def _without(whole: Layout, part: Layout) -> Layout:
    return Layout(tuple(spec for spec in whole if spec.name not in part))


def _columns_of(whole: Layout, part: Layout) -> NDArray[np.int64]:
    """Where the tensors of a part lie in the whole, int64 ``[part.size]``."""
    places = [np.arange(whole.span(s.name).start, whole.span(s.name).stop) for s in part]
    return np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
