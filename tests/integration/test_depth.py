"""Models of some layers of a backbone: as transformers' own with those layers in its list."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, CPU, Case, Folders, Ragged, apart, cohort, start
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError
from fedloom.core.types import LocalWork
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.depth import picked
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import LocalResult
from fedloom.tuning.padded import padded_inputs
from fedloom.tuning.prefix import CacheLimits

WORK = LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9)
LISTS = {"bert": "bert.encoder.layer", "llama": "model.layers", "gpt2": "transformer.h"}
SETS = {"bert": (0, 2, 2), "llama": (1, 0), "gpt2": (0, 1, 1)}
TRAIN = ("layer.0", "head")


def plain(model: CohortModel, case: Case, folders: Folders, blocks: Sequence[int]) -> Any:
    """The transformers model with the start of a run, and these layers."""
    import transformers

    params = start(model)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(
        case.folder(folders), num_labels=3
    ).eval()
    named = params.layout.unflatten(params.vector)
    own.load_state_dict({n: torch.from_numpy(t.copy()) for n, t in named.items()}, strict=False)
    wanted = set(params.layout.select(TRAIN).names)
    for name, parameter in own.named_parameters():
        parameter.requires_grad_(name in wanted)
    path, _, leaf = LISTS[case.family].rpartition(".")
    layers = getattr(own.get_submodule(path), leaf)
    setattr(own.get_submodule(path), leaf, torch.nn.ModuleList(layers[i] for i in blocks))
    for field in ("num_hidden_layers", "n_layer"):
        if hasattr(own.config, field):
            setattr(own.config, field, len(blocks))
    return own


def plain_loop(
    model: CohortModel, case: Case, folders: Folders, ragged: Ragged, blocks: Sequence[int]
) -> list[NDArray[np.float32]]:
    examples, deltas = case.examples(ragged), []
    assert examples.labels is not None
    for one in cohort():
        own = plain(model, case, folders, blocks)
        trained = [p for p in own.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        optimizer = torch.optim.SGD(trained, lr=WORK.lr, momentum=WORK.momentum)
        for batch in local_batches(one, WORK):
            inputs = padded_inputs(examples, [batch], pad=0, device=CPU)
            logits = own(**inputs, use_cache=False).logits if case.family != "bert" else None
            logits = own(**inputs).logits if logits is None else logits
            target = torch.from_numpy(examples.labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(logits, target))
            optimizer.step()
        moved = [(p - b).detach().flatten() for p, b in zip(trained, before, strict=True)]
        deltas.append(np.sort(np.abs(torch.cat(moved).numpy())))
    return deltas


def trained(session: Session, model: CohortModel) -> list[LocalResult]:
    return Backprop().train(session, start(model), WORK, cohort())


@pytest.mark.parametrize("name", SETS)
def test_as_transformers_with_those_layers(
    model_folder: Folders, ragged: Ragged, name: str
) -> None:
    case = CASES[name]
    model = case.build(model_folder, "full", engine="fused")
    session = model.session(start(model), TRAIN, case.examples(ragged))
    found = trained(picked(session, SETS[name]), model)
    assert found[0].layout == model.layout.select(TRAIN)
    # Names of shared layers are not what they were: the changes are compared in order of size.
    for mine, other in zip(
        found, plain_loop(model, case, model_folder, ragged, SETS[name]), strict=True
    ):
        np.testing.assert_allclose(np.sort(np.abs(mine.delta)), other, rtol=1e-3, atol=2e-6)


def test_all_layers_in_order_are_the_whole_model(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, "full", engine="fused")
    session = model.session(start(model), TRAIN, case.examples(ragged))
    assert picked(session, ()) is session
    whole, same = trained(session, model), trained(picked(session, (0, 1, 2)), model)
    assert all(np.array_equal(a.delta, b.delta) for a, b in zip(whole, same, strict=True))
    assert session.flops(10) == picked(session, (0, 1, 2)).flops(10)
    assert picked(session, (0, 1)).flops(10) < session.flops(10)


def test_what_is_kept_of_the_whole_model_is_not_used(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, "lora", engine="fused")
    assert isinstance(model, FusedModel)
    params, examples, train = model.initial(0), case.examples(ragged), ("layer.2", "head")
    cache = model.prefix_cache(
        params, train, examples, order=None, limits=CacheLimits(memory=10**7)
    )
    assert cache is not None
    with_cache = model.session(params, train, examples, cache)
    without = model.session(params, train, examples)
    blocks = (1, 2)
    one, other = (
        Backprop().train(s.picked(blocks), params, WORK, cohort()) for s in (with_cache, without)
    )
    assert apart(one, other) == 0.0


def test_a_layer_that_is_not_there(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, "full", engine="fused")
    session = model.session(start(model), TRAIN, case.examples(ragged))
    with pytest.raises(ConfigError, match="blocks: 3: the backbone has layers 0 to 2"):
        picked(session, (0, 3))


def test_the_generic_engine_runs_whole_models(model_folder: Folders, ragged: Ragged) -> None:
    case = CASES["bert"]
    model = case.build(model_folder, "full", engine="transformers")
    session = model.session(start(model), TRAIN, case.examples(ragged))
    with pytest.raises(ConfigError, match=r"layers \[0, 1\]; only the fused engine"):
        picked(session, (0, 1))
