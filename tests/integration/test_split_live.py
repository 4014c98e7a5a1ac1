"""Models that train over a stream: what they find is what the whole model finds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from split_server import serving
from splits import ALL, Split, cuts, fused
from torch import Tensor

from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import SplitError
from fedloom.core.types import LocalWork
from fedloom.server.gang_host import GangHost
from fedloom.server.split_host import Terms
from fedloom.server.split_journal import Journal
from fedloom.server.stage_host import StageHost
from fedloom.tuning.cut import Cut
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.split_session import SplitSession

WORK = LocalWork(steps=2, batch_size=4, lr=0.05, momentum=0.9)
NAMES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}


def terms_of(split: Split) -> Terms:
    backbone, cut = split.model.backbone, split.cut
    dtype, width = NAMES[backbone.dtype], backbone.shape.width
    return Terms("tiny", cut.first, cut.last, width, labels=cut.labels == "far", dtype=dtype)


def plan_of(split: Split, client: str) -> SpanPlan:
    cut, dtype = split.cut, split.model.backbone.dtype
    far, codec = cut.labels == "far", split.codec
    return SpanPlan("tiny", cut.first, cut.last, dtype, codec, codec, client, 5, 1, far_labels=far)


@contextmanager
def fars(split: Split, port: int, clients: list[str]) -> Iterator[dict[str, RemoteFar]]:
    with ExitStack() as ending:
        found = {}
        for name in clients:
            channel = Channel("127.0.0.1", port, name=name)
            ending.callback(channel.close)
            found[name] = RemoteFar(channel.split, plan_of(split, name))
            ending.callback(found[name].close)
            found[name].open()
        yield found


def session(split: Split, far: RemoteFar) -> SplitSession:
    return SplitSession(split.model, split.params, ALL, split.examples, cut=split.cut, fars=[far])


@pytest.mark.parametrize("codec", ["float64", "int8"])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_every_cut_over_a_stream(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, codec: str
) -> None:
    # One client of a cohort over the wire finds the bits that it finds over a far side in its own
    # process, int8 with its random rounding included; in float64 those of the whole model.
    case, client = CASES[name], cohort()[3]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    params = start(model)
    whole = Backprop().train(model.session(params, ALL, examples), params, WORK, [client])
    options = StageOptions("v1")
    for cut in cuts(model.depth):
        split = Split(model, params, examples, cut, codec)
        near, _ = split.at_once([client], WORK, options)
        stage = split.stage(WORK, options)
        journal = Journal(tmp_path / f"{cut}.sqlite")
        with serving(StageHost(stage), terms_of(split), journal=journal) as server:
            with fars(split, server.port, [client.client]) as found:
                own = session(split, found[client.client])
                (home,) = Backprop().train(own, params, WORK, [client])
            assert server.counting.refused == {}
        moved = journal.moved(client.client)
        assert moved is not None
        journal.close()
        joined = split.joined(home, stage, moved.delta.numpy()[0])
        np.testing.assert_array_equal(joined.delta, near[0].delta, err_msg=str(cut))
        if codec == "float64":
            np.testing.assert_array_equal(joined.delta, whole[0].delta, err_msg=str(cut))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_gradient_whose_step_came_to_a_server_that_was_killed(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, restarted: bool
) -> None:
    # Killed in a client's first step, a server has written nothing of it: to the next one the
    # session is new, and the step is to be sent again. Where none was before, it never came.
    case = CASES["bert"]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    split = Split(model, start(model), examples, Cut(1, model.depth), "float64")
    if restarted:
        Journal(tmp_path / "steps.sqlite").close()
    journal = Journal(tmp_path / "steps.sqlite")
    packing = packing_of(Lengths(((3,),), "first"))
    x = torch.ones(1, 3, model.backbone.shape.width, dtype=torch.float64)
    host = StageHost(split.stage(WORK, StageOptions("v1")))
    with (
        serving(host, terms_of(split), journal=journal) as server,
        fars(split, server.port, ["one"]) as found,
    ):
        far = found["one"]
        with pytest.raises(SplitError) as refused:
            far.backward(1, x)
        assert refused.value.code == ("evicted" if restarted else "order")
        if restarted:
            far.backward(1, far.forward(1, x, packing, train=True))
            assert far.sync() == 1
    journal.close()


@pytest.mark.parametrize("labels", ["home", "far"])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_sessions_that_step_together(
    model_folder: Folders, ragged: Ragged, name: str, labels: str
) -> None:
    # Three devices at once: the far side moves as it does for the three in one process.
    case, clients = CASES[name], [cohort()[i] for i in (0, 3, 4)]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    params, cut = start(model), Cut(1, model.depth, labels)
    split = Split(model, params, examples, cut, "float64")
    options = StageOptions("concat")
    near, _ = split.at_once(clients, WORK, options)
    stage = split.stage(WORK, options)
    host = GangHost(stage, patience=20.0)
    names = [each.client for each in clients]

    def train(client: Assignment) -> LocalResult:
        own = session(split, found[client.client])
        return Backprop().train(own, params, WORK, [client])[0]

    with (
        serving(host, terms_of(split), threads=8) as server,
        fars(split, server.port, names) as found,
        ThreadPoolExecutor(3) as threads,
    ):
        homes = list(threads.map(train, clients))
        assert server.counting.refused == {}
    moved = stage.lane().store.deltas().numpy()[0]
    for home, expected in zip(homes, near, strict=True):
        joined = split.joined(home, stage, moved)
        np.testing.assert_allclose(joined.delta, expected.delta, rtol=1e-4, atol=1e-7)


def test_who_is_late_is_not_waited_for(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    split = Split(model, start(model), examples, Cut(1, model.depth), "float64")
    host = GangHost(split.stage(WORK, StageOptions("concat")), patience=0.3)
    packing = packing_of(Lengths(((3,),), "first"))
    x = torch.ones(1, 3, model.backbone.shape.width, dtype=torch.float64)

    def forward(far: RemoteFar) -> Tensor:
        return far.forward(1, x, packing, train=True)

    with (
        serving(host, terms_of(split), threads=8) as server,
        fars(split, server.port, ["prompt", "late"]) as found,
        ThreadPoolExecutor(2) as threads,
    ):
        prompt, late = found.values()
        outs = list(threads.map(forward, found.values()))
        prompt.backward(1, outs[0])
        with pytest.raises(SplitError, match="step 1: the others have gone on; send it again") as e:
            late.backward(1, outs[1])
        assert e.value.code == "evicted"
        # It sends its input again, alone: the other one is not there, and was waited for once.
        late.forward(1, x, packing, train=True)
        late.backward(1, outs[1])
        assert (prompt.sync(), late.sync()) == (2, 2)


def test_sessions_take_turns_and_nobody_keeps_one(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    split = Split(model, start(model), examples, Cut(1, model.depth), "float64")
    host = StageHost(split.stage(WORK, StageOptions("sequential")))
    terms = replace(terms_of(split), idle=0.3, keep=0.0)
    with serving(host, terms) as server, fars(split, server.port, ["silent"]):
        # It has its turn and says nothing; after 0.3 s the next one has it.
        with fars(split, server.port, ["next"]) as found:
            assert found["next"].sync() == 0
        assert server.counting.refused == {"stalled": 1}
