from dataclasses import replace
from typing import Any

import pytest

from fedloom.core.component import Component, Option
from fedloom.core.config import merge
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job, Stage, job_from
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import LocalWork, Tier
from fedloom.tuning.agreement import check_agreement, check_moved, check_sent
from fedloom.tuning.prepare import check_names

LAYOUT = Layout(
    (
        TensorSpec("w", (4,), tags=frozenset({"lora"})),
        TensorSpec("h", (2,), tags=frozenset({"head"})),
    )
)


def job(learner: dict[str, Option], codec: dict[str, Option], **stage: Any) -> Job:
    return Job(
        learner=Component("finite-difference", learner),
        codec_up=Component("scalars", codec),
        stages=(Stage(**stage),),
    )


@pytest.mark.parametrize(
    ("learner", "codec", "message"),
    [
        ({"scheme": "pool"}, {}, "learner.scheme = 'pool', codec_up.scheme = 'distinct'"),
        ({}, {"scheme": "shared"}, "learner.scheme = 'distinct', codec_up.scheme = 'shared'"),
        ({"family": "gaussian"}, {}, "learner.family = 'gaussian', codec_up.family"),
        ({"bits": 8}, {}, "learner.bits = 8, codec_up.bits = 16"),
        ({"exact": ()}, {}, r"learner.exact = \(\), codec_up.exact = \('head',\)"),
        (
            {"scheme": "pool", "pool": 64},
            {"scheme": "pool"},
            "learner.pool = 64, codec_up.pool = 4096",
        ),
    ],
)
def test_learner_and_codec_must_say_the_same(
    learner: dict[str, Option], codec: dict[str, Option], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_agreement(job(learner, codec))
    both = {**codec, **learner}
    check_agreement(job(both, both))


def test_the_size_of_a_pool_that_is_not_used_does_not_matter() -> None:
    check_agreement(job({"pool": 64}, {}))


def test_a_codec_that_sends_numbers_goes_with_any_directions() -> None:
    dense = replace(job({"scheme": "pool"}, {}), codec_up=Component("bf16"))
    check_agreement(dense)


def test_a_learner_that_sends_tensors_goes_with_any_codec() -> None:
    check_agreement(job({"send": "tensors", "scheme": "pool"}, {}))
    check_agreement(replace(Job(), codec_up=Component("scalars")))


def test_a_kind_of_device_is_held_to_it_too() -> None:
    tier = Tier("phone", learner=Component("finite-difference", {"bits": 8}))
    mixed = replace(Job(), codec_up=Component("scalars"), tiers=(tier,))
    with pytest.raises(ConfigError, match=r"tiers.phone: learner.bits = 8, codec_up.bits = 16"):
        check_agreement(mixed)
    own = replace(tier, codec=Component("scalars", {"bits": 1}))
    with pytest.raises(ConfigError, match=r"tiers.phone: learner.bits = 8, codec.bits = 1"):
        check_agreement(replace(mixed, tiers=(own,)))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Component("fedkseed"), "learner.scheme = 'distinct': pool, which strategy 'fedkseed'"),
        (Component("zeroth-order", {"vote": True}), "learner.scheme = 'distinct': shared"),
    ],
)
def test_a_strategy_goes_along_some_directions_only(strategy: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_agreement(job({}, {}, strategy=strategy))
    shared: dict[str, Option] = {"scheme": "shared"}
    with pytest.raises(ConfigError, match="'shared': distinct or candidates"):
        check_agreement(job(shared, shared, strategy=Component("fwdllm")))


def test_a_guide_is_not_used_twice() -> None:
    with pytest.raises(ConfigError, match=r"learner.guided = True: False; strategy 'fwdllm' has"):
        check_agreement(job({"guided": True}, {}, strategy=Component("fwdllm")))
    guide = Component("zeroth-order", {"guide": 0.9})
    check_agreement(job({"guided": True}, {}, strategy=guide))


@pytest.mark.parametrize(("guided", "decay"), [(True, 0.0), (False, 0.9)])
def test_a_guide_is_measured_where_there_is_one(guided: bool, decay: float) -> None:
    strategy = Component("zeroth-order", {"guide": decay})
    with pytest.raises(ConfigError, match=rf"learner.guided = {guided}: {not guided}; clients"):
        check_agreement(job({"guided": guided}, {}, strategy=strategy))


def test_something_must_be_left_to_move() -> None:
    check_moved(job({}, {}), LAYOUT)
    check_moved(job({}, {}, train=("lora",)), LAYOUT)
    check_moved(Job(), LAYOUT)
    with pytest.raises(ConfigError, match=r"train = \['head'\] in the stage 'train': more than"):
        check_moved(job({}, {}, train=("head",)), LAYOUT)


def test_a_kind_of_device_must_train_what_is_there() -> None:
    learner = Component("finite-difference")
    tier = Tier("phone", learner=learner, train=("nothing",))
    with pytest.raises(ConfigError, match=r"tiers.phone: train: .*'nothing'"):
        check_moved(replace(Job(), tiers=(tier,)), LAYOUT)


def test_scalars_go_with_plain_sgd_only() -> None:
    with pytest.raises(ConfigError, match=r"local.optimizer = 'adamw': sgd; or learner option"):
        check_agreement(job({}, {}, local=LocalWork(optimizer="adamw")))
    check_agreement(job({"send": "tensors"}, {}, local=LocalWork(optimizer="adamw")))
    tier = Tier("phone", learner=Component("finite-difference"), local=LocalWork(momentum=0.9))
    mixed = replace(Job(), codec_up=Component("scalars"), tiers=(tier,))
    with pytest.raises(ConfigError, match=r"tiers.phone: local.momentum = 0.9: 0"):
        check_agreement(mixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"directions": 0}}, "learners.finite-difference: directions = 0: 1 to 65536"),
        ({"learner": {"pool": 0}}, "learners.finite-difference: pool = 0: 1 to 65536"),
        ({"learner": {"largest": 0.0}}, "largest = 0.0: above 0 and finite"),
        ({"learner": {"h": -1.0}}, "h = -1.0: 0"),
        ({"learner": {"scheme": "mine"}}, "scheme = 'mine': one of distinct, shared"),
        ({"codec_up": {"pool": 65537}}, "codecs.scalars: pool = 65537: 1 to 65536"),
        ({"codec_up": {"bits": 4}}, "codecs.scalars: bits = 4: 1, 8 or 16"),
        ({"strategy": {"name": "fwdllm", "tau": 0}}, "strategies.fwdllm: tau = 0.0: above 0"),
        ({"strategy": {"name": "fedkseed", "lr": 0}}, "strategies.fedkseed: lr = 0.0: above 0"),
        ({"local": {"steps": -1}}, "local.steps = -1: 0"),
        ({"clients_per_round": 0}, "clients_per_round = 0: 1 or more"),
    ],
)
def test_numbers_out_of_range_are_named_before_anything_runs(
    changes: dict[str, Any], message: str
) -> None:
    table: dict[str, Any] = {
        "learner": {"name": "finite-difference"},
        "codec_up": {"name": "scalars"},
    }
    with pytest.raises(ConfigError, match=message):
        check_names(job_from(merge(table, changes)))


def test_a_codec_says_what_it_cannot_send() -> None:
    drop = Component("block-drop", {"budget": 70, "inner": "float32"})
    made = Job(stages=(Stage(), Stage(name="late", train=("lora",), codec_up=drop)))
    message = "codec_up in the stage 'late': block-drop: budget = 70: .*block, 'w', takes some 75"
    with pytest.raises(ConfigError, match=message):
        check_sent(made, LAYOUT)
    check_sent(replace(made, stages=(Stage(), Stage(train=("head",), codec_up=drop))), LAYOUT)
    tier = Tier("phone", share=1.0, codec=drop, train=("lora",))
    with pytest.raises(ConfigError, match=r"tiers.phone: codec in the stage 'train': block-drop"):
        check_sent(Job(tiers=(tier,)), LAYOUT)


def test_who_only_answers_needs_a_strategy_that_asks() -> None:
    answers = replace(Job(), learner=Component("black-box"))
    text = "learner = 'black-box', strategy = 'fedavg' in the stage 'train': clients would say how"
    with pytest.raises(ConfigError, match=text):
        check_agreement(answers)
    asked = Stage(strategy=Component("bbtv2"))
    check_agreement(replace(answers, stages=(asked,)))
    check_agreement(replace(Job(), stages=(asked,)))


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ({}, "learner.scheme = 'pool', codec_up.scheme = 'distinct': give both the same"),
        ({"scheme": "pool", "pool": 64}, "learner.pool = 4096, codec_up.pool = 64"),
        ({"scheme": "pool", "family": "gaussian"}, "learner.family = 'rademacher', codec_up.fam"),
    ],
)
def test_a_point_of_a_subspace_is_along_directions_that_the_codec_knows(
    codec: dict[str, Option], message: str
) -> None:
    points = replace(Job(), learner=Component("subspace-search"))
    with pytest.raises(ConfigError, match=message):
        check_agreement(replace(points, codec_up=Component("scalars", codec)))
    check_agreement(replace(points, codec_up=Component("scalars", {"scheme": "pool"})))
    check_agreement(points)
    check_moved(points, LAYOUT)


@pytest.mark.parametrize("name", ["bbtv2", "fed-bbpt"])
def test_a_strategy_with_a_learner_of_its_own_has_no_use_for_texts_without_label(name: str) -> None:
    plain = job_from({"learner": "pseudo-labels", "data": {"unlabelled": True}})
    check_names(plain)
    with pytest.raises(ConfigError, match=r"data.unlabelled = true: every learner must have"):
        check_names(replace(plain, stages=(Stage(strategy=Component(name)),)))
