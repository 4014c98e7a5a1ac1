"""Stages of frozen blocks on loopback that fail, and a device that trains through them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort
from split_server import serving
from splits import Split, fused

from fedloom.client.channel import Channel
from fedloom.client.paths import Hop, Served
from fedloom.client.router import Router
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import ConfigError, SplitError
from fedloom.core.types import LocalWork
from fedloom.server.frozen_host import FrozenHost
from fedloom.server.split_host import Terms
from fedloom.tuning.cut import Cut
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.split_session import SplitSession

WORK = LocalWork(steps=3, batch_size=4, lr=0.05, momentum=0.9)


class Flaky(FrozenHost):
    """Every so often a call ends as if the stage had no memory."""

    random = np.random.default_rng(11)
    failures = 0

    def _run(self, hidden: torch.Tensor, packing: object) -> torch.Tensor:
        if self.random.random() < 0.3:
            Flaky.failures += 1
            raise MemoryError
        return super()._run(hidden, packing)  # type: ignore[arg-type]


@contextmanager
def stages(
    model: FusedModel, spans: Sequence[tuple[int, int]], client: str
) -> Iterator[tuple[list[Served], dict[str, Channel]]]:
    """Stages of these spans."""
    with ExitStack() as ending:
        served, channels = [], {}
        for number, (first, last) in enumerate(spans):
            host = FrozenHost.of(model.backbone, first, last)
            flaky = Flaky(host.backbone, host.ends)
            terms = Terms("frozen", first, last, model.backbone.shape.width, dtype="float64")
            port = ending.enter_context(serving(flaky, terms)).port
            channels[str(number)] = Channel("127.0.0.1", port, name=client)
            ending.callback(channels[str(number)].close)
            served.append(Served(str(number), first, last))
        yield served, channels


@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_a_third_of_the_calls_fails_and_the_gradients_are_those_of_the_whole(
    model_folder: Folders, ragged: Ragged, name: str
) -> None:
    case, client = CASES[name], cohort()[3]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    cut = Cut(1, model.depth)
    # What trains lies at home: the far blocks are frozen, their adapters as they are at first.
    train = tuple(s.name for s in model.layout if s.block == "layer.0" or "head" in s.tags)
    params = model.initial(3)
    whole = Backprop().train(model.session(params, train, examples), params, WORK, [client])
    split = Split(model, params, examples, cut, "float64", train)
    spans = [(1, 2), (2, 3), (1, 3), (1, 2), (2, 3), (1, 3)]
    Flaky.failures = 0
    with stages(model, [s for s in spans if s[1] <= model.depth], client.client) as (served, lines):

        def connect(hop: Hop) -> RemoteFar:
            dtype = torch.float64
            plan = SpanPlan("frozen", hop.first, hop.last, dtype, "float64", "float64")
            return RemoteFar(lines[hop.stage.name].split, plan, attempts=1)

        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds

        router = Router(
            served, connect, 1, model.depth, patience=1e9, clock=lambda: now[0], sleep=sleep
        )
        session = SplitSession(model, params, train, examples, cut=cut, fars=[router])
        (home,) = Backprop().train(session, params, WORK, [client])
        router.close()
    assert router.failures > 0
    stage = split.stage(WORK, StageOptions("v1"))
    joined = split.joined(home, stage, np.zeros(stage.trained.size, dtype=np.float32))
    chosen = model.layout.gather(joined.delta, whole[0].layout)
    np.testing.assert_array_equal(chosen, whole[0].delta)


def test_blocks_that_a_backbone_has_not(model_folder: Folders) -> None:
    model = fused(CASES["bert"], model_folder, torch.float64)
    with pytest.raises(ConfigError, match=r"blocks = 2-9: expected 0 <= first < last <= 3"):
        FrozenHost.of(model.backbone, 2, 9)


def test_what_was_not_kept_is_asked_for_again(model_folder: Folders) -> None:
    model = fused(CASES["bert"], model_folder, torch.float64)
    host = FrozenHost.of(model.backbone, 1, 2)
    with pytest.raises(SplitError, match="step 4: not held; send it again"):
        host.backward("a", 4, torch.zeros(1, 1, 32))
