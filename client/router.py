"""Far blocks that several stages share: a path through them, and another one where one fails.

Petals (Borzunov et al., ACL 2023 demo, section 2.2; NeurIPS 2023): the device keeps what went into
each span of a step; a span that fails, in either direction, is computed again by other stages from
what is kept, and the others' work stands. Here the path is the one that takes least by what calls
took before, and a stage that failed is left alone for ever longer.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.core.errors import IdentityError, SplitError, TransferError
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["Router", "Served", "Span"]

_BAN = 15.0
"""Seconds for which a stage is left alone after a failure; twice as many after each further one."""
_LONGEST = 3600.0
_SHARE = 0.2
"""Of the latest call in what a stage is expected to take."""
_OWN = frozenset(("not-finite", "labels", "shape", "length", "dtype"))
"""Refusals of what this device sent: another stage would refuse it too."""


@dataclass(frozen=True)
class Served:
    """A stage that serves some blocks.

    Attributes:
        name: where it is.
        first: its first block.
        last: the block after its last.
        throughput: blocks a second that it is thought to do, before it was asked.
    """

    name: str
    first: int
    last: int
    throughput: float = 100.0


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
    """What this device knows of a stage."""

    seconds: float
    failures: int = 0
    until: float = 0.0
    span: Span | None = None


@dataclass(frozen=True)
class _Hop:
    """A span of a step that was computed."""

    stage: Served
    span: Span
    number: int
    hidden: Tensor


class Router:
    """Far blocks behind several stages (`fedloom.tuning.far.Far`). For one thread.

    Args:
        stages: what is served, and where.
        connect: begins a session with a stage.
        first: the first far block.
        last: the block after the last far one.
        patience: seconds in which a path is waited for, where every one is interrupted.
        held: steps whose gradient may be asked for.
        clock: seconds.
        sleep: waits.

    Attributes:
        failures: calls that failed so far.
    """

    def __init__(
        self,
        stages: Sequence[Served],
        connect: Callable[[Served], Span],
        first: int,
        last: int,
        *,
        patience: float = 300.0,
        held: int = 2,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._known = {s: _Known((s.last - s.first) / s.throughput) for s in stages}
        self._connect, self._first, self._last = connect, first, last
        self._patience, self._held = patience, held
        self._clock, self._sleep = clock, sleep
        self._numbers = count(1)
        self._steps: dict[int, tuple[list[_Hop], Packing]] = {}
        self.failures = 0

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        """See `fedloom.tuning.far.Far.forward`.

        Raises:
            SplitError: no path was found in time (``no-path``), and as there.
        """
        hops, out = self._through(self._first, self._last, hidden, packing, train=train)
        if train:
            self._steps.pop(step, None)
            self._steps[step] = hops, packing
            while len(self._steps) > self._held:
                del self._steps[next(iter(self._steps))]
        return out

    def backward(self, step: int, grad: Tensor) -> Tensor:
        """See `fedloom.tuning.far.Far.backward`."""
        if step not in self._steps:
            raise SplitError(f"step {step} is not held any more", code="evicted")
        hops, packing = self._steps.pop(step)
        while hops:
            hop = hops.pop()
            found = None
            if self._known[hop.stage].span is hop.span:  # else it was begun anew, and holds nothing
                found = self._asked(hop.stage, partial(hop.span.backward, hop.number, grad))
            if found is not None:
                grad = found
                continue
            first, last = hop.stage.first, hop.stage.last
            again, _ = self._through(first, last, hop.hidden, packing, train=True)
            hops.extend(again)
        return grad

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        """Labels stay at home.

        Raises:
            SplitError: always.
        """
        raise SplitError("labels stay at home where several stages are asked", code="labels")

    def close(self) -> None:
        """End all sessions."""
        for known in self._known.values():
            if known.span is not None:
                known.span.close()
                known.span = None

    def _through(
        self, first: int, last: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> tuple[list[_Hop], Tensor]:
        """Hidden states through blocks `first` up to `last`, whoever has them."""
        hops: list[_Hop] = []
        while first < last:
            stage, number = self._next(first, last), next(self._numbers)
            call = partial(self._run, stage, number, hidden, packing, train=train)
            out = self._asked(stage, call)
            if out is None:
                continue
            span = self._known[stage].span
            assert span is not None
            hops.append(_Hop(stage, span, number, hidden))
            hidden, first = out, stage.last
        return hops, hidden

    def _run(
        self, stage: Served, number: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        known = self._known[stage]
        if known.span is None:
            known.span = self._connect(stage)
        return known.span.forward(number, hidden, packing, train=train)

    def _asked(self, stage: Served, call: Callable[[], Tensor]) -> Tensor | None:
        """What a call gives; None where it failed, and then its stage is left alone."""
        began, known = self._clock(), self._known[stage]
        try:
            found = call()
        except (SplitError, TransferError, IdentityError) as error:
            if error.code in _OWN:
                raise
            self.failures += 1
            known.failures += 1
            known.until = self._clock() + min(_BAN * 2.0 ** (known.failures - 1), _LONGEST)
            if known.span is not None:
                known.span.drop()
                known.span = None
            return None
        known.failures = 0
        known.seconds += _SHARE * (self._clock() - began - known.seconds)
        return found

    def _next(self, first: int, last: int) -> Served:
        """The first stage of the quickest path; waits where there is none now."""
        until = self._clock() + self._patience
        while True:
            now = self._clock()
            free = [stage for stage, known in self._known.items() if known.until <= now]
            found = self._quickest(free, first, last)
            if found is not None:
                return found
            again = min((k.until for k in self._known.values() if k.until > now), default=None)
            if again is None or again > until:
                text = f"no stages serve blocks {first} to {last} now"
                raise SplitError(text, code="no-path")
            self._sleep(again - now)

    def _quickest(self, stages: Sequence[Served], first: int, last: int) -> Served | None:
        """The first stage of the path from `first` to `last` that takes least; None without one."""
        least: dict[int, float] = {last: 0.0}
        best: dict[int, Served] = {}
        for stage in sorted(stages, key=lambda s: -s.first):
            seconds = least.get(stage.last, float("inf")) + self._known[stage].seconds
            if stage.first >= first and seconds < least.get(stage.first, float("inf")):
                least[stage.first], best[stage.first] = seconds, stage
        return best.get(first)
