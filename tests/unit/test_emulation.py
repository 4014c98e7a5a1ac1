from typing import Any

import pytest

from fedloom.core.emulation import EmulatorConfig, kept_layers, spread_layers
from fedloom.core.errors import ConfigError


@pytest.mark.parametrize(
    ("count", "kept", "expected"),
    [
        (6, 4, (0, 2, 3, 5)),  # 0, 5/3 = 1.67, 10/3 = 3.33, 5; cut off instead: 0, 1, 3, 5
        (8, 4, (0, 2, 5, 7)),  # 0, 7/3 = 2.33, 14/3 = 4.67, 7; cut off: 0, 2, 4, 7
        (4, 3, (0, 2, 3)),  # 0, 1.5 to the even 2, 3
        (6, 3, (0, 2, 5)),  # 0, 2.5 to the even 2, 5
        (5, 5, (0, 1, 2, 3, 4)),
        (4, 2, (0, 3)),
        (5, 1, (2,)),
        (1, 1, (0,)),
    ],
)
def test_layers_are_dropped_uniformly(count: int, kept: int, expected: tuple[int, ...]) -> None:
    assert spread_layers(count, kept) == expected


def test_the_released_models() -> None:
    # GPT2-XL, 2-16-2 of 48: 44 between, 16 kept; the first and last of them always
    found = kept_layers(EmulatorConfig(left=2, right=2, keep=16 / 44), 48)
    assert len(found) == 20
    assert found[:3] == (0, 1, 2)
    assert found[-3:] == (45, 46, 47)
    assert found == tuple(sorted(set(found)))


def test_ends_and_what_is_between() -> None:
    how = EmulatorConfig(left=1, right=2, keep=0.5)
    # of 9 layers: 0, then 1 to 6, of which round(0.5 * 6) = 3: 1 + (0, 2, 5), then 7 and 8
    assert kept_layers(how, 9) == (0, 1, 3, 6, 7, 8)
    assert kept_layers(EmulatorConfig(left=1, right=2, keep=1.0), 9) == tuple(range(9))
    assert kept_layers(EmulatorConfig(left=1, right=0, keep=0.01), 4) == (0, 2)
    assert how.trained() == (0, -2, -1)
    assert (how.wanted, EmulatorConfig().wanted) == (True, False)


def test_ends_that_leave_nothing_between() -> None:
    text = r"left \+ backbone.emulator.right = '2 \+ 1': fewer than 3 in all"
    with pytest.raises(ConfigError, match=text):
        kept_layers(EmulatorConfig(left=2, right=1), 3)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("left", -1, "0 or more"),
        ("right", -1, "0 or more"),
        ("keep", 0.0, "above 0, and 1 or less"),
        ("keep", 1.5, "above 0, and 1 or less"),
        ("prune", 1.0, r"in \[0, 1\)"),
        ("bits", 1, "0, or 2 to 16"),
        ("distill", -1, "0 or more"),
        ("lr", 0.0, "above 0, and finite"),
        ("batch_size", 0, "1 or more"),
        ("seed", -1, "0 or more"),
    ],
)
def test_what_is_refused(field: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"backbone.emulator.{field} = {value}: .*{expected}"):
        EmulatorConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "text = '': .*with distill: a file"),
        ({"text": "a.txt", "prune": 0.5}, r"prune = 0\.5: .*0 with distill"),
        ({"text": "a.txt", "bits": 4}, "bits = 4: .*0 with distill"),
    ],
)
def test_what_does_not_go_with_distilling(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"backbone\.emulator\.{expected}"):
        EmulatorConfig(left=1, distill=10, **more)
