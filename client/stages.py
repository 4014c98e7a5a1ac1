"""The stages of frozen blocks that a job names: which of them there are, and a way through them.

Each says itself what it serves. One that cannot be reached is asked again later, and one that
serves something else is left alone: of other weights, or computed in another type, hidden states
would mean something else.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedloom.client.channel import Channel
from fedloom.client.logs import log
from fedloom.client.paths import Hop, Served
from fedloom.client.router import Router, ban
from fedloom.client.span import DTYPE_NAMES, RemoteFar, SpanPlan
from fedloom.core.errors import ConfigError, FedloomError, SplitError, TransferError

__all__ = ["Stages", "address_of"]

_OTHER = 3600.0
"""Seconds after which a stage that serves something else is asked again."""


def address_of(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, or ``[HOST]:PORT``.

    >>> address_of("10.0.0.7:7450")
    ('10.0.0.7', 7450)

    Raises:
        ConfigError: it is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"split.stages = {text!r}: expected HOST:PORT")
    return host, int(port)


@dataclass(eq=False)
class _Stage:
    """What is known of an address.

    Attributes:
        address: host and port.
        channel: to it; None before it is asked, and after a failure.
        found: what it says that it serves; None while that is not known.
        delay: seconds of a call that does nothing.
        failures: in a row.
        until: when it may be asked again.
        fresh: since the last session with it was begun.
        other: why it cannot be used; empty where it can.
    """

    address: tuple[str, int]
    channel: Channel | None = None
    found: Any = None
    delay: float = 0.0
    failures: int = 0
    until: float = 0.0
    fresh: bool = False
    other: str = "not asked yet"

    def forget(self) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = self.found = None


class Stages:
    """The stages of a job. Connections are kept from task to task. For one thread.

    Args:
        addresses: ``HOST:PORT`` of each.
        weights: digest of the model's files, as the job's manifest gives it.
        channel: opens a channel to a host and port, with the identity that the device has now.
        sleep: waits.
        clock: seconds.

    Raises:
        ConfigError: an address is none, or there is no stage.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        weights: str,
        channel: Callable[[str, int], Channel],
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not addresses:
            raise ConfigError("split.stages = []: expected HOST:PORT of those that serve blocks")
        self._stages = {name: _Stage(address_of(name)) for name in addresses}
        self._weights, self._channel = weights, channel
        self._sleep, self._clock = sleep, clock

    def look(self, plan: SpanPlan) -> list[Served]:
        """The stages that serve some of the blocks of a plan; others are asked in their time."""
        for name, stage in self._stages.items():
            if stage.until <= self._clock() and (stage.found is None or stage.other):
                self._ask(name, stage)
        return [
            _served(name, stage)
            for name, stage in self._stages.items()
            if stage.found is not None and self._fits(name, stage, plan)
        ]

    def router(self, plan: SpanPlan, *, patience: float = 120.0) -> Router:
        """A way through the stages for one task.

        Args:
            plan: of the task: its far blocks, types, codecs, client, seed and round. What both
                sides work on is the model that the stages serve.
            patience: seconds in which a path is waited for.
        """
        own = replace(plan, plan=self._weights)
        return Router(
            (),
            partial(self._connect, own),
            own.first,
            own.last,
            patience=patience,
            look=partial(self.look, own),
            clock=self._clock,
            sleep=self._sleep,
        )

    def close(self) -> None:
        """End all connections."""
        for stage in self._stages.values():
            stage.forget()

    def _connect(self, plan: SpanPlan, hop: Hop) -> RemoteFar:
        """A session of some blocks, with a stage that still serves them."""
        name = hop.stage.name
        stage = self._stages[name]
        if not stage.fresh:
            self._ask(name, stage)
        stage.fresh = False
        same = stage.found is not None and self._fits(name, stage, plan)
        if stage.channel is None or not same or _served(name, stage) != hop.stage:
            raise SplitError(f"stage {name}: gone, or with other blocks", code="cut")
        own = replace(plan, first=hop.first, last=hop.last)
        far = RemoteFar(stage.channel.split, own, attempts=1)
        far.open()
        return far

    def _ask(self, name: str, stage: _Stage) -> None:
        """Learn what a stage serves, and how far away it is."""
        try:
            if stage.channel is None:
                stage.channel = self._channel(*stage.address)
            stage.channel.describe()  # which may take the connection's time
            began = self._clock()
            stage.found = stage.channel.describe()
        except FedloomError as error:
            stage.forget()
            if isinstance(error, TransferError) and error.code == "abandoned":
                raise
            stage.other, stage.failures = "gone", stage.failures + 1
            seconds = ban(stage.failures)
            stage.until = self._clock() + seconds
            level = logging.WARNING if stage.failures == 1 else logging.DEBUG
            log.log(level, "stage %s: %s; it is asked again in %.0f s", name, error, seconds)
            return
        now = self._clock()
        stage.delay, stage.until = now - began, now + _OTHER
        stage.failures, stage.fresh = 0, True

    def _fits(self, name: str, stage: _Stage, plan: SpanPlan) -> bool:
        other, found = _other(stage.found, plan), stage.found
        if other and other != stage.other:
            log.warning("stage %s is left alone: %s", name, other)
        elif not other and stage.other != "":
            text = "stage %s serves blocks %d to %d in %d bits, %.0f blocks a second"
            log.info(text, name, found.first, found.last, found.bits, found.throughput)
        stage.other = other
        return not other


def _served(name: str, stage: _Stage) -> Served:
    """A stage that has others' sessions under way has so much less to give."""
    found = stage.found
    throughput = found.throughput / (1 + found.sessions)
    return Served(name, found.first, found.last, throughput, stage.delay)


def _other(found: Any, plan: SpanPlan) -> str:
    """Why a stage cannot be used; empty where it can."""
    if found.plan != plan.plan:
        return f"it serves weights {found.plan[:12]}..., and the job is of {plan.plan[:12]}..."
    dtype = DTYPE_NAMES[plan.dtype]
    if found.dtype != dtype:
        return f"it computes in {found.dtype[:20]}, and this device in {dtype}"
    if found.last <= plan.first or found.first >= plan.last:
        held, far = f"{found.first} to {found.last}", f"{plan.first} to {plan.last}"
        return f"it serves blocks {held}, and far away are {far}"
    if not (found.first < found.last and found.throughput > 0):
        return "what it says of itself makes no sense"
    return ""
