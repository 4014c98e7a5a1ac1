from typing import Any

import pytest

from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.job import job_from
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Selectors
from fedloom.tuning.keeping import check_keeping, kept_tensors

LAYOUT = Layout(
    (
        TensorSpec("q.A", (2,), "layer.0", frozenset({"lora", "A"})),
        TensorSpec("q.B", (2,), "layer.0", frozenset({"lora", "B"})),
        TensorSpec("head", (3,), "head", frozenset({"head"})),
    )
)


def test_what_is_kept_is_not_sent_and_trains() -> None:
    selectors = Selectors(keep=("head",))
    assert selectors.kept(LAYOUT).names == ("head",)
    assert selectors.sent(LAYOUT).names == ("q.A", "q.B")
    with pytest.raises(
        LayoutError, match=r"'head' is kept and does not train \(train = \['lora'\]"
    ):
        Selectors(train=("lora",), keep=("head",)).kept(LAYOUT)


def test_a_stage_says_which_tensors_take_part() -> None:
    stage = job_from({"train": ["lora", "head"], "up": ["A", "head"], "keep": ["B"]}).stages[0]
    assert stage.selectors == Selectors(("lora", "head"), ("A", "head"), ("*",), ("B",))
    assert job_from({}).stages[0].selectors == Selectors()


def test_stages_keep_the_same_or_nothing() -> None:
    job = job_from({"stages": [{}, {"keep": ["head"]}, {"train": ["head", "A"], "keep": ["head"]}]})
    check_keeping(job, LAYOUT)
    assert kept_tensors(job, LAYOUT).names == ("head",)
    assert kept_tensors(job_from({}), LAYOUT).size == 0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"keep": ["tail"]}, "keep of the stage 'train': selector 'tail' matches nothing"),
    ({"up": ["tail"]}, "up of the stage 'train': selector 'tail' matches nothing"),
    ({"down": ["tail"]}, "down of the stage 'train': selector 'tail' matches nothing"),
    ({"up": []}, r"up = \(\): .*at least one tag"),
    ({"train": ["lora"], "keep": ["head"]}, "train of the stage 'train': .*'head' is kept and"),
    ({"keep": ["*"]}, r"keep = \['\*'\]: nothing is left to send"),
    ({"train": ["lora"], "up": ["head"]}, r"up = \['head'\], .*: nothing is left to send"),
    (
        {"stages": [{"keep": ["head"]}, {"name": "late", "keep": ["B"]}]},
        "keep of the stage 'late': .*other tensors than the stage 'train' keeps",
    ),
    (
        {"keep": ["head"], "tiers": [{"name": "weak", "train": ["A"]}]},
        "tiers.weak.train of the stage 'train': .*'head' is kept and does not train",
    ),
    (
        {"keep": ["head"], "learner": {"name": "finite-difference"}},
        r"keep = \['head'\] of the stage 'train': learner = 'finite-difference' moves all",
    ),
    (
        {"up": ["A"], "tiers": [{"name": "weak", "learner": {"name": "forward-gradient"}}]},
        r"up = \['A'\] of the stage 'train': tiers.weak.learner = 'forward-gradient' moves",
    ),
    ({"down": ["A"], "codec_up": {"name": "scalars"}}, "codec_up = 'scalars' has clients follow"),
    (
        {"keep": ["head"], "split": {"mode": "v1", "bottom": 1}},
        r"keep = \['head'\] of the stage 'train': a split model \(split.mode = 'v1'\)",
    ),
]


@pytest.mark.parametrize(("table", "text"), REFUSED)
def test_what_cannot_be_is_refused_before_the_first_round(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_keeping(job_from(table), LAYOUT)
