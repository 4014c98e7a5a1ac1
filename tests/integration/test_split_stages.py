"""A device that finds its way through stages by itself, and loses one in the middle of training."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort
from splits import Split, fused
from stage_process import Stage, stage, stages
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.router import Router
from fedloom.client.span import SpanPlan
from fedloom.client.stages import Stages, address_of
from fedloom.core.errors import ConfigError, SplitError
from fedloom.core.types import LocalWork
from fedloom.tuning.cut import Cut
from fedloom.tuning.far import FarLosses
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.split_session import SplitSession
from fedloom.tuning.targets import Places

WORK = LocalWork(steps=4, batch_size=4, lr=0.05, momentum=0.9)
PACKING = packing_of(Lengths(((3, 5),), None))
HIDDEN = torch.ones(1, 8, 32)
SPANS = ("0-3", "1-2", "1-3")


def channel_of(host: str, port: int) -> Channel:
    return Channel(host, port, name="pi")


@contextmanager
def stages_at(addresses: list[str], weights: str) -> Iterator[Stages]:
    stages = Stages(addresses, weights, channel_of)
    yield stages
    stages.close()


@dataclass
class Killing:
    """A way through stages that loses the one in use in a step, between its two directions."""

    router: Router
    served: list[Stage]
    left: int

    def forward(self, step: int, hidden: Tensor, packing: Packing, *, train: bool) -> Tensor:
        return self.router.forward(step, hidden, packing, train=train)

    def backward(self, step: int, grad: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            name = self.router._steps[step][0][-1].hop.stage.name
            used = next(s for s in self.served if s.address == name)
            used.process.kill()
            used.process.wait()
        return self.router.backward(step, grad)

    def losses(
        self, step: int, hidden: Tensor, packing: Packing, places: Places, *, train: bool
    ) -> tuple[FarLosses, Tensor]:
        return self.router.losses(step, hidden, packing, places, train=train)


def test_a_stage_is_killed_and_the_gradients_are_those_of_the_whole(
    model_folder: Folders, ragged: Ragged
) -> None:
    case, client = CASES["bert"], cohort()[3]
    model, examples = fused(case, model_folder, torch.float32), case.examples(ragged)
    cut = Cut(1, model.depth)
    train = tuple(s.name for s in model.layout if s.block == "layer.0" or "head" in s.tags)
    params, folder = model.initial(3), case.folder(model_folder)
    whole = Backprop().train(model.session(params, train, examples), params, WORK, [client])
    plan = SpanPlan("a job", cut.first, cut.last)
    with ExitStack() as ending:
        served = ending.enter_context(stages(*((folder, b, "--insecure") for b in SPANS)))
        known = ending.enter_context(stages_at([s.address for s in served], model.backbone.digest))
        router = known.router(plan)
        far = Killing(router, served, left=2)
        session = SplitSession(model, params, train, examples, cut=cut, fars=[far])
        (home,) = Backprop().train(session, params, WORK, [client])
        router.close()
        assert sum(s.process.poll() is not None for s in served) == 1
    assert router.failures >= 1
    split = Split(model, params, examples, cut, train=train)
    far_side = split.stage(WORK, StageOptions("frozen"))
    joined = split.joined(home, far_side, np.zeros(far_side.trained.size, dtype=np.float32))
    chosen = model.layout.gather(joined.delta, whole[0].layout)
    np.testing.assert_array_equal(chosen, whole[0].delta)


def test_a_stage_of_something_else_is_left_alone(
    model_folder: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedloom.client")
    folder = CASES["bert"].folder(model_folder)
    weights = fused(CASES["bert"], model_folder, torch.float32).backbone.digest
    other = CASES["gpt2"].folder(model_folder)
    with ExitStack() as ending:
        wrong, rough, low, small = ending.enter_context(
            stages(
                (other, "0-2", "--insecure"),
                (folder, "1-3", "--insecure", "--dtype", "bfloat16"),
                (folder, "0-1", "--insecure"),
                (folder, "1-3", "--insecure", "--bits", "8"),
            )
        )
        nobody = "127.0.0.1:9"
        addresses = [s.address for s in (wrong, rough, low, small)] + [nobody]
        known = ending.enter_context(stages_at(addresses, weights))
        (found,) = known.look(SpanPlan(weights, 1, 3))
    assert (found.name, found.first, found.last) == (small.address, 1, 3)
    for text in (
        f"stage {wrong.address} is left alone: it serves weights {wrong.weights[:12]}",
        f"stage {rough.address} is left alone: it computes in bfloat16, and this device in float32",
        f"stage {low.address} is left alone: it serves blocks 0 to 1, and far away are 1 to 3",
        f"stage {small.address} serves blocks 1 to 3 in 8 bits",
        f"stage {nobody}: no answer from {nobody}",
    ):
        assert text in caplog.text


def test_a_stage_that_comes_back_with_other_blocks(model_folder: Folders) -> None:
    folder, now = CASES["bert"].folder(model_folder), [0.0]
    with ExitStack() as ending:
        first = ending.enter_context(stage(folder, "1-3", "--insecure"))
        plan, address = SpanPlan("a job", 1, 3), first.address
        known = Stages([address], first.weights, channel_of, clock=lambda: now[0])
        ending.callback(known.close)
        router = known.router(plan, patience=0.1)
        out = router.forward(1, HIDDEN, PACKING, train=False)
        first.process.kill()
        first.process.wait()
        with pytest.raises(SplitError, match="no stages serve blocks 1 to 3 now"):
            router.forward(2, HIDDEN, PACKING, train=False)
        ending.enter_context(stage(folder, "0-3", "--insecure", "--port", str(first.port)))
        now[0] = 16.0
        again = known.router(plan, patience=0.1)
        assert torch.equal(again.forward(3, HIDDEN, PACKING, train=False), out)
        again.close()


@pytest.mark.parametrize("text", ["", "host", "host:", ":7450", "host:0", "host:70000", "h:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"split\.stages = .*expected HOST:PORT"):
        address_of(text)


def test_a_job_without_stages() -> None:
    with pytest.raises(ConfigError, match=r"split\.stages = \[\]"):
        Stages([], "weights", channel_of)


def test_addresses() -> None:
    assert address_of("[::1]:7450") == ("::1", 7450)
    assert address_of("stage.local:80") == ("stage.local", 80)
