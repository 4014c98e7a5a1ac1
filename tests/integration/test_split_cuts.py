"""Clients that are cut apart: each as if alone, all of them as the whole model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from splits import ALL, fused

from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig, Job
from fedloom.core.layout import Layout, Vector
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork, Params
from fedloom.core.work import Tier
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.split_training import SplitTraining, split_of

WORK = LocalWork(steps=2, batch_size=4, lr=0.05, momentum=0.9)
FOUR = SplitConfig("v1", bottom=0, top=0, most_bottom=1)


def training(model: FusedModel, split: SplitConfig, ragged: Ragged, name: str) -> SplitTraining:
    job = Job(backbone=BackboneConfig(task=CASES[name].task.kind), split=split)
    found = split_of(job, model, CASES[name].examples(ragged))
    assert found is not None
    return found


def trained(split: SplitTraining, params: Params, clients: Sequence[Assignment]) -> list[Vector]:
    results = split.train(Backprop(), params, ALL, WORK, clients, {})
    return [whole(split, result) for result in results]


def whole(split: SplitTraining, result: LocalResult) -> Vector:
    """What moved on both sides, in the layout of the model."""
    assert result.far is not None
    layout = split.model.layout
    assert {*result.layout.names, *result.far.layout.names} == set(layout.names)
    assert result.layout == split.home(layout)
    both = Layout.concat((result.layout, result.far.layout))
    vector = np.concatenate((result.delta, result.far.vector))
    return layout.scatter(np.zeros(layout.size, np.float32), both, vector)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("labels", ["home", "far"])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_a_mixed_cohort_moves_as_each_alone_and_as_the_whole_model(
    model_folder: Folders, ragged: Ragged, name: str, labels: str, dtype: torch.dtype
) -> None:
    model = fused(CASES[name], model_folder, dtype)
    params, clients = start(model), cohort()
    codec = "float64" if dtype == torch.float64 else "float32"
    config = replace(FOUR, labels=labels, codec_up=codec, codec_down=codec)
    split = training(model, config, ragged, name)
    session = model.session(params, ALL, split.examples)

    def unsplit(those: Sequence[Assignment]) -> list[Vector]:
        return [r.delta for r in Backprop().train(session, params, WORK, those)]

    found: dict[str, Vector] = {}
    for bottom in (0, 1):
        cut, group = split.at(bottom), clients[bottom::2]
        together = trained(cut, params, group)
        np.testing.assert_array_equal(together, unsplit(group))
        found |= {own.client: moved for own, moved in zip(group, together, strict=True)}
        for one in group:
            np.testing.assert_array_equal(trained(cut, params, [one]), unsplit([one]))
    exact = dtype == torch.float64
    for one, expected in zip(clients, unsplit(clients), strict=True):
        apart = np.linalg.norm(found[one.client] - expected) / np.linalg.norm(expected)
        assert apart < (1e-7 if exact else 1e-4)  # another batch is summed in another order


def test_everyone_is_sent_what_the_one_with_most_blocks_holds(
    model_folder: Folders, ragged: Ragged
) -> None:
    model = fused(CASES["bert"], model_folder, torch.float32)
    split = training(model, replace(FOUR, bottom=0, most_bottom=2), ragged, "bert")
    blocks = [
        {spec.block for spec in layout}
        for layout in (
            split.home(model.layout),
            split.at(1).home(model.layout),
            split.sent(model.layout),
        )
    ]
    assert blocks == [{"head"}, {"layer.0", "head"}, {"layer.0", "layer.1", "head"}]
    assert split.at(None) is split.at(0) is split
    for bottom in (0, 1, 2):
        own = split.at(bottom)
        side = model.holding(own.cut.home(model.depth)).layout
        assert own.home(model.layout) == side


@pytest.mark.parametrize(
    ("split", "tiers", "text"),
    [
        ({"bottom": 3}, (), "split.bottom, split.top: 3 blocks below and 0 above leave none of 3"),
        ({"most_bottom": 3}, (), "split.most_bottom, split.top: 3 blocks below"),
        ({"most_bottom": 2, "top": 1}, (), "split.most_bottom, split.top: 2 blocks below and 1 "),
        ({}, (Tier("pi", bottom=3),), "tiers.pi.bottom, split.top: 3 blocks below and 0 above"),
    ],
)
def test_cuts_that_leave_nothing_far_away(
    model_folder: Folders,
    ragged: Ragged,
    split: dict[str, int],
    tiers: tuple[Tier, ...],
    text: str,
) -> None:
    model = fused(CASES["bert"], model_folder, torch.float32)
    config = SplitConfig("v1", **({"bottom": 0, "top": 0} | split))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=text):
        split_of(Job(split=config, tiers=tiers), model, CASES["bert"].examples(ragged))
