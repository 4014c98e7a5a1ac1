import numpy as np
import pytest

from fedloom.backbones.base import Linear
from fedloom.core.errors import LayoutError
from fedloom.core.types import Params
from fedloom.tuning.attachments import Chain, LowRank, Replacement, Scaling
from fedloom.tuning.base import Part
from fedloom.tuning.composition import Composition
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.parts import Ia3Part, LoraPart
from fedloom.tuning.store import Store

QUERY = Linear("layer.0.query", "layer.0", 4, 4)
LORA, SCALE, INPUT = LoraPart(QUERY, 2, 1.0), Ia3Part(QUERY, before=False), Ia3Part(QUERY, True)
HEAD = HeadPart(Linear("classifier", "head", 4, 2))


def test_the_layout_is_that_of_the_parts_in_order() -> None:
    composition = Composition((LORA, HEAD))
    assert composition.layout.names == (
        "layer.0.query.lora_A.weight",
        "layer.0.query.lora_B.weight",
        "classifier.weight",
        "classifier.bias",
    )
    assert composition.initial(3).vector.shape == (8 + 8 + 8 + 2,)


def test_parts_that_clash_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"'layer.0.query.ia3_l' occurs twice"):
        Composition((SCALE, INPUT)).layout  # noqa: B018


def changed(composition: Composition, name: str) -> Params:
    params = composition.initial(0)
    vector = params.vector.copy()
    vector[params.layout.span(name)] = 2
    return Params(params.layout, vector)


@pytest.mark.parametrize(
    ("train", "moved", "active"),
    [
        (("*",), "", (LORA, HEAD)),
        (("head",), "", (HEAD,)),  # B is zero: as if there were no LoRA
        (("head",), "layer.0.query.lora_A.weight", (HEAD,)),
        (("head",), "layer.0.query.lora_B.weight", (LORA, HEAD)),
        (("A",), "", (LORA, HEAD)),
        ((), "", (HEAD,)),
    ],
)
def test_parts_that_neither_train_nor_change_anything_are_left_out(
    train: tuple[str, ...], moved: str, active: tuple[Part, ...]
) -> None:
    composition = Composition((LORA, HEAD))
    params = changed(composition, moved) if moved else composition.initial(0)
    assert composition.active(params, params.layout.select(train)) == active


def test_sites_by_module() -> None:
    composition = Composition((LORA, HEAD))
    sites = Composition.sites(composition.parts, Store(composition.initial(0), ("*",), clients=1))
    assert list(sites) == ["layer.0.query", "classifier"]
    assert isinstance(sites["layer.0.query"].after, LowRank)
    assert sites["layer.0.query"].before is None
    assert isinstance(sites["classifier"].after, Replacement)


def test_several_parts_at_one_place_are_chained() -> None:
    composition = Composition((LORA, SCALE))
    sites = Composition.sites(composition.parts, Store(composition.initial(0), ("*",), clients=1))
    assert isinstance(sites["layer.0.query"].after, Chain)


def test_input_and_output_of_one_module_are_apart() -> None:
    parts = (LORA, INPUT)
    params = Composition(parts).initial(0)
    site = Composition.sites(parts, Store(params, ("*",), clients=1))["layer.0.query"]
    assert isinstance(site.before, Scaling)
    assert isinstance(site.after, LowRank)


def test_the_same_seed_gives_the_same_model() -> None:
    composition = Composition((LORA, HEAD))
    first, again, other = (composition.initial(seed).vector for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
