"""The ways in which a client's task can be run, and what each takes of memory, from the shapes."""

from collections.abc import Iterator

from fedloom.core.work import LocalWork
from fedloom.tuning.base import Rows, Session
from fedloom.tuning.fused_session import FusedSession
from fedloom.tuning.learning import Learner
from fedloom.tuning.needs import SHAPES, passes
from fedloom.tuning.sparing import Sparing
from fedloom.tuning.ways import COPIES, SCATTERED, Way

__all__ = ["SLACK", "run_by", "ways_of"]

SLACK = 56 * 10**6
"""Bytes that steps take whatever their size: code that libraries make for each shape (oneDNN's
cache, see `keep_few_shapes`), their own memory, a thread's buffers. Measured."""
_DIRECTION = 16
"""Bytes of a row for each number that trains: a direction as it is drawn, used, and added."""


def ways_of(
    session: Session, plan: Rows, learner: Learner, work: LocalWork, *, trained: int, size: int
) -> list[Way]:
    """All ways of running a task.

    Args:
        session: what it trains over.
        plan: the examples of each of its batches.
        learner: how data becomes an update.
        work: says which optimizer.
        trained: numbers that train.
        size: numbers of the model that may train.
    """
    backward = _backward(learner)
    batch = max(len(rows) for rows in plan)
    rows = _rows(learner, max(session.tokens(rows) for rows in plan))
    fixed = work.state_bytes(trained) + 4 * COPIES * size + SLACK + getattr(learner, "loads", 0)
    if rows > 1:
        fixed += _DIRECTION * rows * trained
    weights = session.memory(0, backward=backward)  # they are held already
    found = []
    for inner, recompute in _kinds(session, backward=backward):
        for examples in sorted({-(-batch // parts) for parts in range(1, batch + 1)}):
            tokens = max(session.tokens(part) for part in passes(Sparing(inner, examples), plan))
            taken = inner.memory((tokens + SHAPES) * rows, backward=backward) - weights
            taken = int(SCATTERED * taken) + fixed
            found.append(Way(examples, -(-batch // examples), recompute, tokens, taken))
    return found


def run_by(session: Session, way: Way) -> Session:
    """The session that runs batches in a way."""
    if isinstance(session, FusedSession) and way.frugal:
        session = session.frugal(recompute=way.recompute, examples=way.examples)
    return Sparing(session, way.examples) if way.parts > 1 else session


def _kinds(session: Session, *, backward: bool) -> Iterator[tuple[Session, bool]]:
    yield session, False
    if backward and isinstance(session, FusedSession):
        yield session.frugal(recompute=True), True


def _rows(learner: Learner, tokens: int) -> int:
    """Rows of a client that a pass holds, for batches of so many tokens."""
    at_once = getattr(learner, "rows_at_once", None)
    return int(getattr(learner, "copies", 1) if at_once is None else at_once(tokens))


def _backward(learner: Learner) -> bool:
    """Whether activations of blocks are kept; a gradient of the head alone keeps none."""
    if "backward" in getattr(learner, "kernel_needs", ("backward",)):
        return True
    return tuple(getattr(learner, "exact", ())) not in ((), ("head",))
