"""Far blocks that several stages share: a path through them, and another one where one fails.

Petals (Borzunov et al., ACL 2023 demo, section 2.2; NeurIPS 2023): the device keeps what went into
each span of a step; a span that fails, in either direction, is computed again by other stages from
what is kept, and the others' work stands. Here the path is the one that takes least by what calls
took before, and a stage that failed is left alone for ever longer.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol, TypeVar

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.client.paths import Hop, Pace, Served, quickest
from fedloom.core.errors import IdentityError, SplitError, TransferError
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["Router", "Span", "ban"]

Found = TypeVar("Found")

_BAN = 15.0
"""Seconds for which a stage is left alone after a failure; twice as many after each further one."""
_LONGEST = 3600.0
_LOOK = 5.0
"""Seconds between looks for stages that came, while there is no path."""
_OWN = frozenset(("not-finite", "labels", "shape", "length", "abandoned"))
"""Refusals of what this device sent, which another stage would refuse too; and its own end."""


def ban(failures: int) -> float:
    """Seconds for which a stage is left alone after so many failures in a row."""
    return min(_BAN * 2.0 ** (failures - 1), _LONGEST)


class Span(Protocol):
    """A session with a stage, such as a `fedloom.client.span.RemoteFar`."""

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `fedloom.tuning.far.Far.forward`."""
        ...

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `fedloom.tuning.far.Far.backward`."""
        ...

    def drop(self) -> None:
        """End it at once, whatever is under way."""
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclass(eq=False)
class _Known:
    """What this device knows of a stage, and its sessions by their blocks."""

    pace: Pace
    failures: int = 0
    until: float = 0.0
    spans: dict[tuple[int, int], Span] = field(default_factory=dict)

    def drop(self) -> None:
        for span in self.spans.values():
            span.drop()
        self.spans.clear()


@dataclass(frozen=True)
class _Done:
    """A hop of a step that was computed."""

    hop: Hop
    span: Span
    number: int
    hidden: Tensor


class Router:
    """Far blocks behind several stages (`fedloom.tuning.far.Far`). For one thread.

    Args:
        stages: what is served, and where.
        connect: begins a session with a stage, for some of its blocks.
        first: the first far block.
        last: the block after the last far one.
        patience: seconds in which a path is waited for, where every one is interrupted.
        held: steps whose gradient may be asked for.
        look: asked for stages that came since, before each hop.
        clock: seconds.
        sleep: waits.

    Attributes:
        failures: calls that failed so far.
    """

    def __init__(
        self,
        stages: Sequence[Served],
        connect: Callable[[Hop], Span],
        first: int,
        last: int,
        *,
        patience: float = 300.0,
        held: int = 2,
        look: Callable[[], Sequence[Served]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._known = {s: _Known(Pace.of(s)) for s in stages}
        self._connect, self._first, self._last = connect, first, last
        self._patience, self._held = patience, held
        self._look, self._clock, self._sleep = look, clock, sleep
        self._numbers = count(1)
        self._steps: dict[int, tuple[list[_Done], Packing]] = {}
        self.failures = 0

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `fedloom.tuning.far.Far.forward`.

        Raises:
            SplitError: no path was found in time (``no-path``), and as there.
        """
        done, out = self._through(self._first, self._last, hidden, packing, train=train)
        if train:
            self._steps.pop(step, None)
            self._steps[step] = done, packing
            while len(self._steps) > self._held:
                del self._steps[next(iter(self._steps))]
        return out

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `fedloom.tuning.far.Far.backward`."""
        if step not in self._steps:
            raise SplitError(f"step {step} is not held any more", code="evicted")
        done, packing = self._steps.pop(step)
        while done:
            last = done.pop()
            found, hop = None, last.hop
            spans = self._known[hop.stage].spans
            if spans.get((hop.first, hop.last)) is last.span:  # else it holds nothing any more
                found = self._asked(hop, partial(last.span.backward, last.number, grad))
            if found is not None:
                grad = found
                continue
            again, _ = self._through(hop.first, hop.last, last.hidden, packing, train=True)
            done.extend(again)
        return grad

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """Labels stay at home.

        Raises:
            SplitError: always.
        """
        raise SplitError("labels stay at home where several stages are asked", code="labels")

    def sync(self) -> int:
        """How often the far tensors have stepped: never."""
        return 0

    def drop(self) -> None:
        """End all sessions at once, whatever is under way."""
        for known in self._known.values():
            known.drop()

    def close(self) -> None:
        """End all sessions."""
        for known in self._known.values():
            for span in known.spans.values():
                span.close()
            known.spans.clear()

    def _through(
        self, first: int, last: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> tuple[list[_Done], Tensor]:
        """Hidden states through blocks `first` up to `last`, whoever has them."""
        done: list[_Done] = []
        while first < last:
            hop, number = self._next(first, last), next(self._numbers)
            span = self._asked(hop, partial(self._session, hop), counts=False)
            if span is None:
                continue
            call = partial(span.forward, number, hidden, packing, train=train)
            out = self._asked(hop, call)
            if out is None:
                continue
            done.append(_Done(hop, span, number, hidden))
            hidden, first = out, hop.last
        return done, hidden

    def _session(self, hop: Hop) -> Span:
        spans, blocks = self._known[hop.stage].spans, (hop.first, hop.last)
        if blocks not in spans:
            spans[blocks] = self._connect(hop)
        return spans[blocks]

    def _asked(self, hop: Hop, call: Callable[[], Found], *, counts: bool = True) -> Found | None:
        """What a call gives; None where it failed, and then its stage is left alone.

        Args:
            hop: of whose stage it is asked.
            call: to be made.
            counts: it tells how quick the stage is, and that it works.
        """
        began, known = self._clock(), self._known[hop.stage]
        try:
            found = call()
        except (SplitError, TransferError, IdentityError) as error:
            if error.code in _OWN:
                raise
            self.failures += 1
            known.failures += 1
            known.until = self._clock() + ban(known.failures)
            known.drop()
            return None
        if counts:
            known.failures = 0
            known.pace.took(hop, self._clock() - began)
        return found

    def _next(self, first: int, last: int) -> Hop:
        """The first hop of the quickest path; waits where there is none now."""
        until = self._clock() + self._patience
        while True:
            for stage in self._look() if self._look else ():
                self._known.setdefault(stage, _Known(Pace.of(stage)))
            now = self._clock()
            free = {stage: k.pace for stage, k in self._known.items() if k.until <= now}
            found = quickest(free, first, last)
            if found is not None:
                return found
            again = [k.until for k in self._known.values() if k.until > now]
            again += [now + _LOOK] if self._look else []
            if not again or min(again) > until:
                text = f"no stages serve blocks {first} to {last} now"
                raise SplitError(text, code="no-path")
            self._sleep(min(again) - now)
