from dataclasses import replace

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig, Job
from fedloom.core.registry import Component
from fedloom.core.split import SplitConfig
from fedloom.core.work import LocalWork, Tier
from fedloom.tuning.split_checks import check_split

PI = Tier("pi", memory_mb=100)


@pytest.mark.parametrize("mode", ["v1", "frozen"])
def test_kinds_of_devices_that_cuts_of_their_own_allow(mode: str) -> None:
    tiers = (
        replace(PI, bottom=1, local=LocalWork(lr=1.0), train=("head",)),
        Tier("b", learner=Component("finite-difference"), codec=Component("bf16")),
    )
    check_split(Job(split=SplitConfig(mode, bottom=2, most_bottom=3), tiers=tiers))


@pytest.mark.parametrize(
    ("split", "tier", "text"),
    [
        (SplitConfig(), PI, "tiers.pi: bottom and memory_mb are of a split model; .* = 'none'"),
        (SplitConfig(), Tier("pi", bottom=0), "tiers.pi: bottom and memory_mb are of a split"),
        (
            SplitConfig("v2", bottom=1, most_bottom=2),
            PI,
            "mode = 'v2', split.most_bottom = 2: its clients are cut alike; v1 allows",
        ),
        (
            SplitConfig("concat", bottom=1),
            Tier("pi", bottom=2),
            "mode = 'concat', tiers.pi.bottom = 2: its clients are cut alike; v1 allows",
        ),
        (
            SplitConfig("sequential"),
            Tier("pi", train=("head",)),
            "mode = 'sequential', tiers.pi.train: its clients do the same work; v1 allows other",
        ),
        (
            SplitConfig("v1"),
            Tier("pi", learner=Component("forward-gradient")),
            r"tiers.pi.learner = 'forward-gradient': a split model .* goes with backprop, fin",
        ),
        (
            SplitConfig("v1"),
            Tier("pi", codec=Component("scalars")),
            r"tiers.pi.codec = 'scalars': a split model .* is not followed by its steps",
        ),
    ],
)
def test_kinds_of_devices_that_a_split_model_has_not(
    split: SplitConfig, tier: Tier, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        check_split(Job(split=split, tiers=(tier,)))


def test_kinds_of_devices_that_are_alike_go_with_every_mode() -> None:
    for mode in ("v2", "concat", "sequential"):
        check_split(Job(split=SplitConfig(mode, bottom=1), tiers=(replace(PI, bottom=1),)))


def test_a_head_of_words_needs_all_of_the_backbone() -> None:
    backbone = BackboneConfig(head_init="words")
    text = r"backbone\.head_init = 'words': zeros or normal: .*split\.mode = 'v2'"
    with pytest.raises(ConfigError, match=text):
        check_split(Job(backbone=backbone, split=SplitConfig("v2", bottom=1)))


def test_a_far_side_reads_no_mask() -> None:
    backbone = BackboneConfig(pooling="mask", pattern="{text} {mask}")
    text = r"backbone\.pooling = 'mask': mean, last or model: the far side"
    with pytest.raises(ConfigError, match=text):
        check_split(Job(backbone=backbone, split=SplitConfig("v2", bottom=1)))
