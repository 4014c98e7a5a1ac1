"""Methods that claim to be exact, through the trainer's own forward, on backbones of any format."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from lora_federation import Federation, error, federation_of

from fedloom.core.component import Component, Option
from fedloom.core.layout import Layout
from fedloom.core.registry import create
from fedloom.core.types import Params, State
from fedloom.strategies.base import Strategy

FORMATS = ("", "int8", "int4")
SIDE = 12  # two rounds of three clients of rank 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))


def strategy(name: str, **options: Option) -> Strategy:
    return cast(Strategy, create("strategies", Component(name, options)))


def played(found: Federation, method: Strategy, rounds: int = 2) -> list[float]:
    """The error of each round."""
    state, errors = method.init(found.model.initial(3)), []
    for _ in range(rounds):
        state, told = found.round(method, state)
        errors.append(error(found, state.params, told))
    return errors


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("name", ["fedex-lora", "flora", "ffa-lora", "rolora", "fed-sb"])
def test_the_global_model_adds_the_mean_of_what_clients_add(
    name: str, quantization: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    adapter: dict[str, Option] = {"side": SIDE} if name in ("fedex-lora", "flora") else {}
    adapter |= {"name": "fed-sb"} if name == "fed-sb" else {}
    found = federation_of(text_model["classify"], tmp_path, quantization, **adapter)
    method = strategy("fedavg" if name == "fed-sb" else name)
    assert max(played(found, method)) < 1e-6


@pytest.mark.parametrize("name", ["fedex-lora", "flora"])
def test_clients_of_several_ranks_too(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    found = federation_of(text_model["classify"], tmp_path, "int8", side=SIDE)
    method = strategy(name, ranks=((1, 0.5), (2, 0.5)))
    assert max(played(found, method)) < 1e-6


# FlexLoRA's repository multiplies by 16 / rank whatever the job says.
def test_scales_of_the_job_and_its_layers_cancel(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    own: dict[str, Option] = {"rank": 4, "alpha": 3.0, "rslora": True, "ranks": ((0, 3),)}
    plain = federation_of(text_model["classify"], tmp_path, "", **own)
    # Three clients of rank 1 are not more than one pair of rank 3 holds.
    assert max(played(plain, strategy("flexlora", ranks=((1, 1.0),)), rounds=1)) < 1e-6
    beside = federation_of(text_model["classify"], tmp_path, "", side=24, **own)
    assert max(played(beside, strategy("fedex-lora"))) < 1e-6


def test_means_of_both_factors_are_far_from_it(text_model: dict[str, Path], tmp_path: Path) -> None:
    found = federation_of(text_model["classify"], tmp_path)
    assert min(played(found, strategy("fedit"))) > 0.01


# Where A trains on clients and the server keeps its own, B is the mean for As that no one has.
def test_a_frozen_a_is_frozen_on_clients(text_model: dict[str, Path], tmp_path: Path) -> None:
    found = federation_of(text_model["classify"], tmp_path)
    state = State(found.model.initial(3))
    after, told = found.round(strategy("ffa-lora"), state)
    a = state.params.layout.select(("A",))
    for one in told.values():
        assert np.array_equal(one.local.only(a).vector, state.params.only(a).vector)
        assert one.update.delta is not None
        assert not set(one.update.delta.layout.names) & set(a.names)
    assert np.array_equal(after.params.only(a).vector, state.params.only(a).vector)


def test_rolora_moves_one_factor_at_a_time_and_b_first(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    found, method = federation_of(text_model["classify"], tmp_path), strategy("rolora")
    state = State(found.model.initial(3))
    for resting in ("A", "B", "A"):
        after, _ = found.round(method, state)
        moving = "B" if resting == "A" else "A"
        moved = {
            tag: (_of(after.params, tag) != _of(state.params, tag)).any() for tag in ("A", "B")
        }
        assert moved == {resting: False, moving: True}
        assert (_of(after.params, "head") != _of(state.params, "head")).any()
        state = after


def _of(params: Params, tag: str) -> np.ndarray:
    return params.only(params.layout.select((tag,))).vector


def test_what_clients_send_has_the_size_of_their_rank(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    found = federation_of(text_model["classify"], tmp_path, side=SIDE)
    method = strategy("flora", ranks=((1, 1.0),))
    state, told = found.round(method, State(found.model.initial(3)))
    layout = state.params.layout
    trained = Layout(tuple(spec for spec in layout if spec.trains))
    heads = layout.select(("head",)).size
    for one in told.values():
        assert one.update.delta is not None
        assert one.update.delta.layout.size == heads + (trained.size - heads) // 2
        for spec in layout.select(("lora",)):  # nothing moved beyond the rank
            tensor = layout.view(one.local.vector, spec.name)
            assert not (tensor[1:] if "A" in spec.tags else tensor[:, 1:]).any()
            assert tensor.any()
