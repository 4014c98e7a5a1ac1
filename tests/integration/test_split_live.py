"""Models that train over a stream: what they find is what the whole model finds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from split_server import serving
from splits import ALL, Split, cuts, fused

from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.types import LocalWork
from fedloom.server.split_host import Terms
from fedloom.server.stage_host import StageHost
from fedloom.tuning.learners.backprop import Backprop
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
def sessions(split: Split, port: int, clients: list[str]) -> Iterator[dict[str, SplitSession]]:
    with ExitStack() as ending:
        found = {}
        for name in clients:
            channel = Channel("127.0.0.1", port, name=name)
            ending.callback(channel.close)
            far = RemoteFar(channel.split, plan_of(split, name))
            ending.callback(far.close)
            model, params = split.model, split.params
            session = SplitSession(model, params, ALL, split.examples, cut=split.cut, fars=[far])
            found[name] = session
        yield found


@pytest.mark.parametrize("codec", ["float64", "int8"])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_every_cut_over_a_stream(
    model_folder: Folders, ragged: Ragged, name: str, codec: str
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
        host = StageHost(stage, {})
        with serving(host, terms_of(split)) as server:
            with sessions(split, server.port, [client.client]) as found:
                (home,) = Backprop().train(found[client.client], params, WORK, [client])
            assert server.counting.refused == {}
        (moved,) = host.moved.values()
        joined = split.joined(home, stage, moved.numpy()[0])
        np.testing.assert_array_equal(joined.delta, near[0].delta, err_msg=str(cut))
        if codec == "float64":
            np.testing.assert_array_equal(joined.delta, whole[0].delta, err_msg=str(cut))
