"""The stages of frozen blocks that a job names: which of them there are, and a way through them.

Each says itself what it serves. One that cannot be reached is asked again later, and one that
serves something else is left alone: of other weights, or computed in another type, hidden states
would mean something else.
"""

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
    """What is known of an address; fresh: since its last session was begun."""

    address: tuple[str, int]
    channel: Channel | None = None
    served: Served | None = None
    failures: int = 0
    until: float = 0.0
    fresh: bool = False


class Stages:
    """The stages of a job. Channels are kept from task to task. For one thread.

    Args:
        addresses: ``HOST:PORT`` of each.
        plan: what a session needs: its plan is the digest of the model's files, as the job's
            manifest gives it, its blocks are all that are far away.
        channel: opens a channel to a host and port, with the identity that the device has now.
        clock: seconds.

    Raises:
        ConfigError: an address is none.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        plan: SpanPlan,
        channel: Callable[[str, int], Channel],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = {name: _Stage(address_of(name)) for name in addresses}
        self._plan, self._channel, self._clock = plan, channel, clock

    def look(self) -> list[Served]:
        """The stages that serve something of what is needed; the others are asked in their time."""
        for name, stage in self._stages.items():
            if stage.served is None and stage.until <= self._clock():
                self._ask(name, stage)
        return [stage.served for stage in self._stages.values() if stage.served is not None]

    def router(self, plan: SpanPlan, *, patience: float = 300.0) -> Router:
        """A way through the stages for one task.

        Args:
            plan: as these stages', with client, seed and round of the task, and its own blocks.
            patience: seconds in which a path is waited for.
        """
        connect = partial(self._connect, plan)
        return Router((), connect, plan.first, plan.last, patience=patience, look=self.look)

    def close(self) -> None:
        """End all connections."""
        for stage in self._stages.values():
            self._forget(stage)

    def _connect(self, plan: SpanPlan, hop: Hop) -> RemoteFar:
        """A session of some blocks; after a failure only if the stage still serves what it did."""
        stage = self._stages[hop.stage.name]
        if not stage.fresh:
            self._ask(hop.stage.name, stage)
        stage.fresh = False
        if stage.served != hop.stage or stage.channel is None:
            raise SplitError(f"stage {hop.stage.name}: gone, or with other blocks", code="cut")
        own = replace(plan, first=hop.first, last=hop.last)
        return RemoteFar(stage.channel.split, own, attempts=1)

    def _ask(self, name: str, stage: _Stage) -> None:
        """Learn what a stage serves, and how far away it is."""
        stage.served = None
        try:
            if stage.channel is None:
                stage.channel = self._channel(*stage.address)
            stage.channel.describe()
            began = self._clock()
            found = stage.channel.describe()
            delay = self._clock() - began
        except FedloomError as error:
            self._forget(stage)
            if isinstance(error, TransferError) and error.code == "abandoned":
                raise
            stage.failures += 1
            stage.until = self._clock() + ban(stage.failures)
            level = log.warning if stage.failures == 1 else log.debug
            level("stage %s: %s; it is asked again in %.0f s", name, error, ban(stage.failures))
            return
        stage.failures, stage.fresh = 0, True
        other = _other(found, self._plan)
        if other:
            stage.until = self._clock() + _OTHER
            log.warning("stage %s is left alone: %s", name, other)
            return
        quick = max(found.throughput / (1 + found.sessions), 1e-3)
        stage.served = Served(name, found.first, found.last, quick, delay)
        text = "stage %s serves blocks %d to %d in %d bits, %.0f blocks a second"
        log.info(text, name, found.first, found.last, found.bits, found.throughput)

    def _forget(self, stage: _Stage) -> None:
        if stage.channel is not None:
            stage.channel.close()
        stage.channel = stage.served = None


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
    if not 0 <= found.first < found.last or not found.throughput > 0:
        return "what it says of itself makes no sense"
    return ""
