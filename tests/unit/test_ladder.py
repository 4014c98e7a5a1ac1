import pytest

from fedloom.core.layout import Layout, TensorSpec
from fedloom.strategies.ladder import Configuration, Ladder


def spec(layer: int, unit: int) -> TensorSpec:
    tags = frozenset({"bottleneck", f"unit.{unit}"})
    return TensorSpec(f"l.{layer}.{unit}", (2, 1), f"layer.{layer}", tags)


HEAD = TensorSpec("head.weight", (3,), "head", frozenset({"head"}))
# Twelve layers and units: "layer.1" is not "layer.11", nor "unit.1" "unit.11".
LAYOUT = Layout((*(spec(layer, unit) for layer in range(12) for unit in range(12)), HEAD))


def test_the_top_layers_and_the_first_units_train() -> None:
    part = Ladder.of(LAYOUT).part(Configuration(2, 3))
    assert part.names == ("l.10.0", "l.10.1", "l.10.2", "l.11.0", "l.11.1", "l.11.2", "head.weight")


def test_the_head_alone_and_everything() -> None:
    ladder = Ladder.of(LAYOUT)
    assert ladder.part(Configuration(0, 5)).names == ("head.weight",)
    assert ladder.part(Configuration(12, 12)) == LAYOUT
    assert ladder.without(Configuration(12, 12)) == ()


def test_steps_end_at_what_there_is() -> None:
    ladder, last = Ladder.of(LAYOUT), Configuration(12, 12)
    assert ladder.within(last.deeper(1)) == last
    assert ladder.within(last.wider()) == last
    assert ladder.within(Configuration(1, 1).deeper(2).wider()) == Configuration(3, 2)


def test_an_adapter_without_units_has_one() -> None:
    plain = Layout((TensorSpec("a", (2,), "layer.0"), TensorSpec("b", (2,), "layer.1")))
    ladder = Ladder.of(plain)
    assert ladder.within(Configuration(5, 5)) == Configuration(2, 1)
    assert ladder.part(Configuration(1, 1)).names == ("b",)


@pytest.mark.parametrize("depth", [0, 3])
def test_without_layers_everything_trains(depth: int) -> None:
    ladder = Ladder.of(Layout((HEAD,)))
    own = ladder.within(Configuration(depth, 1))
    assert own == Configuration(0, 1)
    assert ladder.part(own).names == ("head.weight",)
