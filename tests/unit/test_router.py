"""Paths through stages that fail: gradients stay those of the whole, and little is done again."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.paths import Hop, Served
from fedloom.client.router import Router
from fedloom.core.errors import SplitError, TransferError
from fedloom.tuning.far import remote_span

PACKING = packing_of(Lengths(((2,),), None))
BLOCKS = (2.0, 3.0, 5.0, 7.0)  # each multiplies by its number


@dataclass
class World:
    """Stages, a clock, and what fails next.

    Attributes:
        fails: draws whether a call fails.
        down: names of stages that always fail.
        calls: by stage and direction.
        seconds: that a call of a stage takes.
    """

    rate: float = 0.0
    down: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    now: float = 0.0
    waits: list[float] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def connect(self, hop: Hop) -> "Fake":
        return Fake(self, hop)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def router(self, *stages: Served, last: int = 4, **options: Any) -> Router:
        clock = lambda: self.now  # noqa: E731
        return Router(stages, self.connect, 0, last, clock=clock, sleep=self.sleep, **options)


@dataclass
class Fake:
    """A session that multiplies, and forgets everything when it fails."""

    world: World
    hop: Hop
    held: set[int] = field(default_factory=set)
    dropped: bool = False

    @property
    def factor(self) -> float:
        return float(np.prod(BLOCKS[self.hop.first : self.hop.last]))

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        self._called("forward")
        self.held.add(step)
        return hidden * self.factor

    def backward(self, step: int, grad: Tensor) -> Tensor:
        self._called("backward")
        if step not in self.held:
            raise SplitError("not held", code="evicted")
        return grad * self.factor

    def drop(self) -> None:
        self.dropped = True

    def close(self) -> None:
        self.dropped = True

    def _called(self, what: str) -> None:
        assert not self.dropped
        name = self.hop.stage.name
        self.world.calls[name, what] += 1
        self.world.now += self.world.seconds.get(name, 0.0)
        if name in self.world.down or self.world.random.random() < self.world.rate:
            raise TransferError("cut", code="unreachable")


def test_the_quickest_path_is_taken() -> None:
    # a-b would take 0.02 + 0.02 s, c 0.1 s; once b has taken a second, it is expected to take
    # 0.02 + 0.2 (1 - 0.02) = 0.216 s, and c 0.05 s for the same blocks
    world = World(seconds={"b": 1.0})
    a, b, c = Served("a", 0, 2), Served("b", 2, 4), Served("c", 0, 4, throughput=40.0)
    router = world.router(a, b, c)
    x = torch.ones(1, 2, 3)
    assert torch.equal(router.forward(1, x, PACKING, train=False), x * 210)
    assert torch.equal(router.forward(2, x, PACKING, train=False), x * 210)
    assert world.calls == {("a", "forward"): 2, ("b", "forward"): 1, ("c", "forward"): 1}


def test_only_the_span_that_failed_is_computed_again() -> None:
    world = World()
    stages = [Served("a", 0, 1), Served("b", 1, 3), Served("c", 3, 4)]
    spare = [Served("b1", 1, 2, throughput=1.0), Served("b2", 2, 3, throughput=1.0)]
    router = world.router(*stages, *spare)
    x = torch.ones(1, 2, 3)
    router.forward(1, x, PACKING, train=True)
    world.down.add("b")
    assert torch.equal(router.backward(1, x), x * 210)
    assert world.calls == {
        **{(name, what): 1 for name in "abc" for what in ("forward", "backward")},
        **{(name, what): 1 for name in ("b1", "b2") for what in ("forward", "backward")},
    }
    assert router.failures == 1


def test_a_stage_that_fails_is_left_alone_ever_longer() -> None:
    world = World(down={"a"})
    router = world.router(Served("a", 0, 4), patience=50.0)
    with pytest.raises(SplitError, match="no stages serve blocks 0 to 4 now") as refused:
        router.forward(1, torch.ones(1, 2, 3), PACKING, train=True)
    assert refused.value.code == "no-path"
    assert world.waits == [15.0, 30.0]  # and then 60 s, which is beyond the patience
    world.down.clear()
    world.now += 60.0
    assert router.forward(1, torch.ones(1, 2, 3), PACKING, train=True).sum() == 6 * 210


def test_blocks_that_nobody_serves() -> None:
    with pytest.raises(SplitError, match="no stages serve blocks 0 to 4 now"):
        World().router(Served("a", 0, 2)).forward(1, torch.ones(1, 2, 3), PACKING, train=True)
    with pytest.raises(SplitError, match="labels stay at home"):
        World().router().losses(1, torch.ones(1, 2, 3), PACKING, None, train=True)  # type: ignore[arg-type]


def test_a_third_of_all_calls_fails() -> None:
    world = World(rate=0.3)
    stages = [Served(f"{i}{first}", first, first + 2) for i in range(3) for first in (0, 1, 2)]
    stages += [Served(f"{i}{first}", first, first + 1) for i in range(2) for first in range(4)]
    router = world.router(*stages, patience=1e9)
    for step in range(1, 201):
        x = torch.full((1, 2, 3), float(step), requires_grad=True)
        (remote_span(router, step, x, PACKING) ** 2).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full_like(x, 2 * step * 210.0**2))
    assert router.failures > 200
    router.close()


def test_a_step_that_is_long_gone() -> None:
    router = World().router(Served("a", 0, 4))
    x = torch.ones(1, 2, 3)
    for step in (1, 2, 3):
        router.forward(step, x, PACKING, train=True)
    with pytest.raises(SplitError, match="step 1 is not held any more") as refused:
        router.backward(1, x)
    assert refused.value.code == "evicted"
    assert torch.equal(router.backward(3, x), x * 210)


def test_a_stage_serves_any_blocks_within_its_own() -> None:
    # Of 0 to 4 only 1 to 3 are far: neither stage begins and ends there.
    world = World()
    stages = (Served("low", 0, 2), Served("high", 2, 4))
    router = Router(stages, world.connect, 1, 3)
    x = torch.ones(1, 2, 3)
    assert torch.equal(router.forward(1, x, PACKING, train=True), x * 15)
    assert torch.equal(router.backward(1, x), x * 15)


def test_stages_that_come_later_are_found() -> None:
    world = World(down={"a"})
    late: list[Served] = []

    def look() -> list[Served]:
        if world.now > 7:
            late[:] = [Served("b", 0, 4)]
        return late

    router = world.router(Served("a", 0, 4), look=look)
    x = torch.ones(1, 2, 3)
    assert torch.equal(router.forward(1, x, PACKING, train=True), x * 210)
    assert world.waits == [5.0, 5.0]  # a is left alone for 15 s, b is there after 7
    assert world.calls["a", "forward"] == 1


def test_a_device_that_stops_looks_for_no_other_way() -> None:
    class Stopping(Fake):
        def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
            raise TransferError("this device stops", code="abandoned")

    world = World()
    router = Router([Served("a", 0, 4)], lambda hop: Stopping(world, hop), 0, 4)
    with pytest.raises(TransferError, match="this device stops"):
        router.forward(1, torch.ones(1, 2, 3), PACKING, train=True)
    assert router.failures == 0
