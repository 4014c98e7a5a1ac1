"""LoRA with a side-car, and with a core that trains: engines, learners and peft agree on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, apart, start, train_at_once, train_one_by_one
from test_export import exported, in_peft, losses_in_peft
from test_merge import Both, built, checked
from walks import ONE, measured, true_slopes

from fedloom.core.component import Component, Option
from fedloom.core.errors import LayoutError
from fedloom.core.layout import ALL
from fedloom.core.types import LocalWork, Selectors
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.learners.differences import Differences
from fedloom.tuning.learners.forward_gradient import Tangents
from fedloom.tuning.merge import merge

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's and transformers'

SIDE = Component("lora", {"rank": 3, "side": 5, "alpha": 2.0})
CORE = Component("fed-sb", {"rank": 4})
WORK = LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0, prox_mu=0.1)


@pytest.mark.parametrize("adapter", [SIDE, CORE], ids=str)
@pytest.mark.parametrize("name", ["bert", "gpt2-lm"])
def test_at_once_one_by_one_and_both_engines(
    model_folder: Folders, ragged: Ragged, name: str, adapter: Component
) -> None:
    case = CASES[name]
    examples = case.examples(ragged)
    fused = case.build(model_folder, adapter, engine="fused")
    generic = case.build(model_folder, adapter, engine="transformers")
    assert fused.layout == generic.layout
    np.testing.assert_allclose(fused.initial(3).vector, generic.initial(3).vector, atol=1e-6)
    alone = train_one_by_one(fused, examples, WORK)
    assert apart(train_at_once(fused, examples, WORK), alone) < 1e-5
    assert apart(train_at_once(generic, examples, WORK), alone) < 1e-5
    own = {spec.name for spec in fused.layout if not spec.trains}
    assert own
    assert not own & set(alone[0].layout.names)


@pytest.mark.parametrize("engine", ["fused", "transformers"])
@pytest.mark.parametrize("adapter", [SIDE, CORE], ids=str)
def test_slopes_forwards_and_by_differences_are_those_of_autograd(
    model_folder: Folders, ragged: Ragged, adapter: Component, engine: str
) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, adapter, engine=engine)
    params = start(model)
    session = model.session(params, ALL, case.examples(ragged))
    trained = model.layout.select(ALL).size
    assert trained < model.layout.size
    z = torch.randn(5, trained, generator=torch.Generator().manual_seed(0))
    gradients = np.stack(true_slopes(session, params, ONE))
    want, size = (gradients * z.double().numpy()).sum(1), np.linalg.norm(gradients, axis=1)
    assert (np.abs(measured(Tangents(), session, params, z) - want) <= 1e-5 * size).all()
    found = measured(Differences(True, 1e-3), session, params, z)
    assert (np.abs(found - want) <= 2e-2 * size).all()


OPTIONS: dict[str, tuple[str, dict[str, Option]]] = {
    "side": ("lora", {"rank": 3, "side": 5}),
    "alpha": ("lora", {"rank": 3, "side": 2, "alpha": 5.0, "rslora": True}),
    "ranks": ("lora", {"rank": 4, "side": 3, "ranks": ((0, 2), (1, 1))}),
    "core": ("fed-sb", {"rank": 4, "alpha": 6.0}),
    "random": ("fed-sb", {"rank": 4, "start": "random"}),
}


@pytest.mark.parametrize("case_name", ["bert-mean", "gpt2-lm"])
@pytest.mark.parametrize("option", OPTIONS)
def test_peft_has_them_as_one_lora(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, case_name: str, option: str
) -> None:
    case = CASES[case_name]
    examples = case.examples(ragged).take(np.arange(6))
    model, params = exported(case, model_folder, Component(*OPTIONS[option]), tmp_path)
    here = evaluate(model.session(params, (), examples), params, examples).loss
    there = losses_in_peft(in_peft(case, model_folder, tmp_path), case, examples, tmp_path)
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)
    side = [spec.name for spec in params.layout if "side" in spec.tags or "core" in spec.tags]
    without = params.vector.copy()
    for name in side:
        params.layout.view(without, name)[...] = 0
    bare = type(params)(params.layout, without)
    assert (
        np.abs(evaluate(model.session(bare, (), examples), bare, examples).loss - here).max() > 1e-3
    )


@pytest.mark.parametrize("name", ["bert", "gpt2-lm"])
@pytest.mark.parametrize("adapter", [SIDE, CORE], ids=str)
def test_they_merge_into_the_backbone(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, adapter: Component
) -> None:
    model = built(CASES[name].folder(model_folder), name, adapter)
    params = start(model)
    out = merge(model, params, tmp_path / "out")
    checked(Both(name, ragged), model, params, out, 2e-5)


def test_nobody_trains_keeps_or_sends_it(model_folder: Folders) -> None:
    layout = CASES["bert"].build(model_folder, SIDE).layout
    side = {spec.name for spec in layout if "side" in spec.tags}
    assert len(side) == 2 * 6  # queries and values of three layers
    for pattern in ("*", "layer.0", "*side*"):
        assert not side & set(layout.present((pattern,)).names)
    assert not side & set(Selectors().sent(layout).names)
    with pytest.raises(LayoutError, match="selector 'side' matches nothing"):
        layout.select(("side",))


def test_a_cohort_has_one_side_car(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, SIDE)
    params = start(model)
    store = model.session(params, ALL, case.examples(ragged)).store(params, 7)
    for spec in params.layout:
        if "side" in spec.tags:
            assert store.view(spec.name).stride(0) == 0
            assert store.grad_view(spec.name) is None


def test_a_new_side_car_takes_no_time(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    plain, beside = (case.build(model_folder, Component("lora", {"side": n})) for n in (0, 4))
    params = beside.initial(3)
    session = beside.session(params, ALL, case.examples(ragged))
    kinds = [type(site.after) for site in session.store(params, 1).sites.values()]
    first = plain.initial(3)
    others = plain.session(first, ALL, case.examples(ragged)).store(first, 1).sites.values()
    assert kinds == [type(site.after) for site in others]
    assert np.array_equal(params.only(plain.layout).vector, first.vector)
