"""What is said of a split that gives more away than it need."""

import re

import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.exposure import exposed
from fedloom.core.split import SplitConfig


def test_of_every_split_it_is_said_that_it_hides_little() -> None:
    for config in (SplitConfig("v1"), SplitConfig("v1", bottom=3, top=2, clip=1.0)):
        (line,) = exposed(config)
        assert re.match("split: what goes up gives texts and labels away", line)


def test_nothing_is_said_without_a_split() -> None:
    assert exposed(SplitConfig(bottom=0, top=0, labels="far")) == ()


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        (SplitConfig("v1", bottom=1), ["split.bottom = 1: hidden states"]),
        (SplitConfig("v1", top=0), ["split.top = 0: of gradients"]),
        (SplitConfig("v1", labels="far"), ["split.labels = 'far': .* every label"]),
        (SplitConfig("v2", 0, 0), ["split.bottom = 0", "split.top = 0"]),  # FedBERT's own cut
        (SplitConfig("v1", 0, 0, "far"), ["split.bottom = 0", "split.labels"]),
    ],
)
def test_what_gives_more_away_is_named(config: SplitConfig, texts: list[str]) -> None:
    _, *found = exposed(config)
    assert len(found) == len(texts)
    for line, text in zip(found, texts, strict=True):
        assert re.match(text, line)


def test_what_noise_is_worth_is_said() -> None:
    # mu = 2 / 2 = 1.
    _, line = exposed(SplitConfig("v1", clip=1.0, noise=2.0))
    assert "(4.38, 1e-5)-differentially private" in line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise": 0.5}, "split.noise = 0.5: 0 without split.clip or split.clip_grad"),
        ({"clip": -1.0}, "split.clip = -1.0"),
        ({"clip_grad": float("inf")}, "split.clip_grad = inf"),
    ],
)
def test_bounds_out_of_range_are_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SplitConfig("v1", **options)  # type: ignore[arg-type]


def test_noise_on_gradients_alone_will_do() -> None:
    assert SplitConfig("v1", clip_grad=1.0, noise=0.5).noise == 0.5
