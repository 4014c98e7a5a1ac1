import math

import numpy as np
import pytest
import torch

from fedloom.backbones.base import Linear
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Part
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.parts import BiasPart, BottleneckPart, Ia3Part, LoraPart
from fedloom.tuning.store import Store

# Written down once: a run starts from the same bits on every machine and in every version.
GOLDEN_A = [-0.03754422813653946, -0.024507839232683182, -0.22013993561267853, -0.19649018347263336]
GOLDEN_DOWN = [-0.27687376737594604, -0.30647534132003784, 0.09404107928276062, 0.26246729493141174]

QUERY = Linear("encoder.layer.1.query", "layer.1", d_in=16, d_out=8)
PARTS: dict[str, Part] = {
    "lora": LoraPart(QUERY, rank=4, scaling=2.0),
    "ia3": Ia3Part(QUERY, before=False),
    "ia3 before": Ia3Part(QUERY, before=True),
    "bias": BiasPart(QUERY, torch.arange(8, dtype=torch.float32)),
    "bottleneck": BottleneckPart(QUERY, width=3),
    "head": HeadPart(Linear("classifier", "head", d_in=16, d_out=3)),
}


def shapes(part: Part) -> dict[str, tuple[int, ...]]:
    return {spec.name.removeprefix(f"{part.module}."): spec.shape for spec in part.specs}


def test_tensors_are_named_and_shaped_as_peft_saves_them() -> None:
    assert shapes(PARTS["lora"]) == {"lora_A.weight": (4, 16), "lora_B.weight": (8, 4)}
    assert shapes(PARTS["ia3"]) == {"ia3_l": (8, 1)}
    assert shapes(PARTS["ia3 before"]) == {"ia3_l": (1, 16)}
    assert shapes(PARTS["bias"]) == {"bias": (8,)}
    assert shapes(PARTS["bottleneck"]) == {
        "bottleneck.down.weight": (3, 8),
        "bottleneck.down.bias": (3,),
        "bottleneck.up.weight": (8, 3),
        "bottleneck.up.bias": (8,),
    }
    assert shapes(PARTS["head"]) == {"weight": (3, 16), "bias": (3,)}


def test_tags_and_blocks() -> None:
    a, b = PARTS["lora"].specs
    assert (a.tags, b.tags) == (frozenset({"lora", "A"}), frozenset({"lora", "B"}))
    tags = {tag for part in PARTS.values() for spec in part.specs for tag in spec.tags}
    assert tags == {"lora", "A", "B", "ia3", "bias", "bottleneck", "head"}
    assert {s.block for name, part in PARTS.items() if name != "head" for s in part.specs} == {
        "layer.1"
    }


def test_what_changes_the_input_says_so() -> None:
    assert [name for name, part in PARTS.items() if part.before] == ["ia3 before"]


@pytest.mark.parametrize("name", PARTS)
def test_initial_tensors_fit_the_specs_and_repeat(name: str) -> None:
    part = PARTS[name]
    first, again = part.initial(5), part.initial(5)
    assert [(n, t.shape, t.dtype.name) for n, t in first.items()] == [
        (s.name, s.shape, "float32") for s in part.specs
    ]
    assert all(np.array_equal(first[n], again[n]) for n in first)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "head"])
def test_a_new_adapter_changes_nothing(name: str) -> None:
    part = PARTS[name]
    tensors = dict(part.initial(5))
    assert part.is_identity(tensors)
    last = part.specs[-1].name
    tensors[last] = tensors[last] + np.float32(0.5)
    assert not part.is_identity(tensors)


def test_a_head_is_never_the_identity() -> None:
    assert not PARTS["head"].is_identity(PARTS["head"].initial(5))


def test_lora_starts_uniform_within_the_bound() -> None:
    wide = LoraPart(Linear("wide", "layer.0", d_in=400, d_out=8), rank=25, scaling=1.0)
    a, b = wide.initial(1).values()
    bound = 1 / math.sqrt(400)  # 0.05
    assert not b.any()
    assert np.abs(a).max() <= bound
    # 10^4 uniform numbers: mean within four standard errors, 4 * (0.05 / sqrt 3) / 100 < 0.0012,
    # and a standard deviation of 0.05 / sqrt 3 = 0.0289.
    assert abs(a.mean()) < 0.0012
    assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_other_seeds_and_names_give_other_numbers() -> None:
    part = PARTS["lora"]
    other = LoraPart(Linear("encoder.layer.0.query", "layer.0", 16, 8), rank=4, scaling=2.0)
    a = part.initial(5)[part.specs[0].name]
    assert not np.array_equal(a, part.initial(6)[part.specs[0].name])
    assert not np.array_equal(a, other.initial(5)[other.specs[0].name])


def test_initial_numbers_never_change() -> None:
    lora, bottleneck = PARTS["lora"], PARTS["bottleneck"]
    a = lora.initial(7)[lora.specs[0].name]
    down = bottleneck.initial(7)[bottleneck.specs[0].name]
    assert a[0, :4].tolist() == GOLDEN_A
    assert down[0, :4].tolist() == GOLDEN_DOWN


def test_a_new_head_is_zero_or_normal() -> None:
    linear = Linear("classifier", "head", d_in=500, d_out=20)
    assert not any(t.any() for t in HeadPart(linear).initial(1).values())
    weight, bias = HeadPart(linear, init="normal").initial(1).values()
    # 10^4 normal numbers of standard deviation 0.02: four standard errors of the mean are 0.0008.
    assert abs(weight.mean()) < 0.0008
    assert weight.std() == pytest.approx(0.02, rel=0.03)
    assert not bias.any()


def test_a_checkpoints_head_is_kept() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    linear = Linear("score", "head", d_in=3, d_out=2)
    part = HeadPart(linear, weight=weight, has_bias=False, init="normal")
    assert shapes(part) == {"weight": (2, 3)}
    assert part.initial(1)["score.weight"].tolist() == weight.tolist()


def test_a_bias_starts_at_the_backbones() -> None:
    part = PARTS["bias"]
    assert part.initial(1)[part.specs[0].name].tolist() == list(range(8))


WIDTH, UNITS, TOKENS, CLIENTS = 8, 8, 5, 3
NARROW = BottleneckPart(QUERY, width=WIDTH, units=UNITS)
WIDE = BottleneckPart(QUERY, width=WIDTH * UNITS)
BASE = f"{QUERY.name}.bottleneck"


def joined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Eight bottlenecks' tensors (or gradients) as those of one; the biases after them add up."""
    axes = {"down.weight": 0, "down.bias": 0, "up.weight": 1}
    found = {
        f"{BASE}.{part}": torch.cat([tensors[f"{name}.{part}"] for name in NARROW.names], axis)
        for part, axis in axes.items()
    }
    biases = [tensors[f"{name}.up.bias"] for name in NARROW.names]
    return {**found, f"{BASE}.up.bias": torch.stack(biases).sum(0)}


def store_of(part: BottleneckPart, tensors: dict[str, torch.Tensor], train: Selector) -> Store:
    layout = Layout(part.specs)
    vector = layout.flatten({name: tensor.numpy() for name, tensor in tensors.items()})
    return Store(Params(layout, vector), train, clients=CLIENTS)


def run(store: Store, part: BottleneckPart) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient to the input of one pass; the store has those of the tensors."""
    draw = torch.Generator().manual_seed(2)
    y, dy = (torch.randn(CLIENTS, TOKENS, QUERY.d_out, generator=draw) for _ in range(2))
    attachment = part.attach(store)
    out, saved = attachment.forward(y, y.clone())
    return out, attachment.backward(saved, dy)[0]


def test_eight_units_of_eight_are_one_of_sixty_four() -> None:
    draw = torch.Generator().manual_seed(1)
    several = {spec.name: torch.randn(spec.shape, generator=draw) for spec in NARROW.specs}
    many, one = store_of(NARROW, several, ("*",)), store_of(WIDE, joined(several), ("*",))
    for found, wanted in zip(run(many, NARROW), run(one, WIDE), strict=True):
        torch.testing.assert_close(found, wanted)
    for client in range(CLIENTS):
        grads: dict[str, torch.Tensor] = {}
        for spec in NARROW.specs:
            grad = many.grad_view(spec.name)
            assert grad is not None
            grads[spec.name] = grad[client]
        for name, wanted in joined(grads).items():
            own = one.grad_view(name)
            assert own is not None
            # The one bias gets the gradient once, eight get it each.
            times = UNITS if name.endswith("up.bias") else 1
            torch.testing.assert_close(wanted, times * own[client])


def test_new_units_that_do_not_train_change_nothing() -> None:
    start = {name: torch.from_numpy(array) for name, array in NARROW.initial(3).items()}
    first = BottleneckPart(QUERY, width=WIDTH)
    names = [spec.name for spec in first.specs]
    own = {name: start[name.replace(BASE, f"{BASE}.0")] for name in names}
    own[f"{BASE}.up.weight"] = own[f"{BASE}.up.weight"] + 0.1
    start |= {name.replace(BASE, f"{BASE}.0"): tensor for name, tensor in own.items()}
    part, alone = store_of(NARROW, start, ("unit.0",)), store_of(first, own, ("*",))
    for found, wanted in zip(run(part, NARROW), run(alone, first), strict=True):
        assert torch.equal(found, wanted)  # the same products, to the bit
    assert torch.equal(part.grad, alone.grad)


def test_units_have_names_tags_and_numbers_of_their_own() -> None:
    assert NARROW.names[0] == f"{BASE}.0"
    assert len(NARROW.specs) == 4 * UNITS
    layout = Layout(NARROW.specs)
    assert layout.select(("unit.7",)).names == tuple(s.name for s in NARROW.specs[-4:])
    assert layout.select(("bottleneck",)) == layout
    start = NARROW.initial(3)
    assert NARROW.is_identity(start)
    downs = [start[f"{name}.down.weight"] for name in NARROW.names]
    assert not any(np.array_equal(downs[0], other) for other in downs[1:])
    start[f"{BASE}.5.up.bias"] = start[f"{BASE}.5.up.bias"] + np.float32(1)
    assert not NARROW.is_identity(start)
