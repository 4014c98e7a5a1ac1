"""Steps that wait for their gradient: as many and as large as a far side allows."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.core.errors import SplitError

__all__ = ["Tape", "Tapes"]


@dataclass(frozen=True)
class Tape:
    """What is kept of a step.

    Attributes:
        leaf: what went in, ``[k, L, d]``; it requires grad.
        out: what came out, with its graph; None where that is found again.
        packing: where the tokens lie.
        version: steps that the tensors had taken.
        nbytes: memory of it all, from the shapes.
    """

    leaf: Tensor
    out: Tensor | None
    packing: Packing
    version: int
    nbytes: int


class Tapes:
    """The waiting steps of all sessions, oldest first.

    Args:
        credit: steps of one session at most; its oldest goes.
        max_bytes: of all sessions together; the oldest of all go.
    """

    def __init__(self, credit: int, max_bytes: int) -> None:
        self._credit, self._max_bytes = credit, max_bytes
        self._kept: OrderedDict[tuple[str, int], Tape] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(tape.nbytes for tape in self._kept.values())

    def put(self, session: str, step: int, tape: Tape) -> None:
        """Keep a step; a step that is sent again takes the place of what was kept of it.

        Raises:
            SplitError: it is larger than all steps together may be.
        """
        if tape.nbytes > self._max_bytes:
            text = f"{tape.nbytes} bytes; at most {self._max_bytes} are held"
            raise SplitError(f"step {step}: {text}: send smaller batches", code="memory")
        self._kept.pop((session, step), None)
        own = [key for key in self._kept if key[0] == session]
        for key in own[: max(len(own) + 1 - self._credit, 0)]:
            del self._kept[key]
        while self._kept and self.nbytes + tape.nbytes > self._max_bytes:
            self._kept.popitem(last=False)
        self._kept[session, step] = tape

    def get(self, session: str, step: int) -> Tape:
        """What is kept of a step.

        Raises:
            SplitError: nothing is, or no longer (code ``evicted``).
        """
        try:
            return self._kept[session, step]
        except KeyError:
            text = "not held; send its hidden states again"
            raise SplitError(f"step {step}: {text}", code="evicted") from None

    def drop(self, session: str, step: int | None = None) -> None:
        """Let go of a step, or of all steps of a session."""
        for key in [k for k in self._kept if k[0] == session and step in (None, k[1])]:
            del self._kept[key]
