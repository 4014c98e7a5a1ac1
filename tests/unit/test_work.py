from dataclasses import replace

import pytest

from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.work import LocalWork, Selectors

LAYOUT = Layout(
    (
        TensorSpec("a", (1,), tags=frozenset({"A"})),
        TensorSpec("b", (1,), tags=frozenset({"B"})),
        TensorSpec("h", (1,), tags=frozenset({"head"})),
    )
)


@pytest.mark.parametrize(
    ("selectors", "sent"),
    [
        (Selectors(), ("a", "b", "h")),
        (Selectors(train=("A", "head")), ("a", "h")),
        (Selectors(train=("A", "B"), up=("B", "head")), ("b",)),
        (Selectors(keep=("head",)), ("a", "b")),
        (Selectors(train=("A",), up=("B",)), ()),
    ],
)
def test_what_is_sent_is_trained_and_up_and_not_kept(
    selectors: Selectors, sent: tuple[str, ...]
) -> None:
    assert selectors.sent(LAYOUT).names == sent


def test_a_selector_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(LayoutError, match="selector 'C' matches nothing"):
        Selectors(up=("C",)).sent(LAYOUT)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("optimizer", "adam", r"one of \('sgd', 'adamw'\)"),
        ("steps", -1, r"0 \(count epochs\) or more"),
        ("epochs", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
        ("lr", 0.0, "above 0 and finite"),
        ("lr", float("nan"), "above 0 and finite"),
        ("lr", float("inf"), "above 0 and finite"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("betas", (0.9, 1.0), r"each in \[0, 1\)"),
        ("eps", 0.0, "above 0 and finite"),
        ("max_examples", -1, "0 or more, and finite"),
        ("weight_decay", -0.1, "0 or more, and finite"),
        ("clip_norm", float("inf"), "0 or more, and finite"),
        ("prox_mu", float("nan"), "0 or more, and finite"),
        ("head_lr", -1.0, "0 or more, and finite"),
    ],
)
def test_numbers_out_of_range_are_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"local\.{field} = .*: {allowed}"):
        replace(LocalWork(), **{field: value})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("work", "steps"),
    [
        (LocalWork(batch_size=4), 3),  # 4, 4 and 1 of 9 examples
        (LocalWork(batch_size=4, epochs=2), 6),
        (LocalWork(batch_size=4, epochs=2, max_examples=8), 4),
        (LocalWork(batch_size=4, steps=5), 5),
    ],
)
def test_how_many_steps_a_client_takes(work: LocalWork, steps: int) -> None:
    assert work.step_count(9) == steps
