"""What a split model finds is what the whole model finds: every cut, two legs and four."""

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from splits import ALL, Split, cuts, fused

from fedloom.core.types import LocalWork
from fedloom.tuning.cut import Cut
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.ordering import StageOptions

WORK = LocalWork(steps=2, batch_size=4, lr=0.05, momentum=0.9)
NAMES = ("bert", "bert-mean", "gpt2", "gpt2-lm", "llama", "qwen2-lm", "vit")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_every_cut_moves_every_tensor_as_the_whole_model_does(
    model_folder: Folders, ragged: Ragged, name: str, dtype: torch.dtype, recompute: bool
) -> None:
    # The far side runs the same operations on the same numbers, so not a bit may differ: in
    # float64 and float32 because they travel as they are, in bfloat16 because float32 holds it.
    case = CASES[name]
    model, examples = fused(case, model_folder, dtype), case.examples(ragged)
    params, clients = start(model), cohort()
    whole = Backprop().train(model.session(params, ALL, examples), params, WORK, clients)
    codec = "float64" if dtype == torch.float64 else "float32"
    for cut in cuts(model.depth):
        split = Split(model, params, examples, cut, codec)
        options = StageOptions("v1", recompute=recompute)
        found, _ = split.at_once(clients, WORK, options)
        for mine, other in zip(found, whole, strict=True):
            np.testing.assert_array_equal(mine.delta, other.delta, err_msg=str(cut))
            assert mine.metrics == other.metrics


@pytest.mark.parametrize(("codec", "most"), [("float64", 0.0), ("bf16", 0.02), ("int8", 0.05)])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_frozen_far_blocks_leave_what_trains_at_home_as_it_is(
    model_folder: Folders, ragged: Ragged, name: str, codec: str, most: float
) -> None:
    case, clients = CASES[name], cohort()
    model, examples = fused(case, model_folder, torch.float64), case.examples(ragged)
    params, cut = model.initial(3), Cut(1, model.depth)
    train = tuple(s.name for s in model.layout if s.block == "layer.0" or "head" in s.tags)
    whole = Backprop().train(model.session(params, train, examples), params, WORK, clients)
    split = Split(model, params, examples, cut, codec, train)
    found, _ = split.at_once(clients, WORK, StageOptions("frozen"))
    assert split.stage(WORK, StageOptions("frozen")).trained.size == 0
    for mine, other in zip(found, whole, strict=True):
        delta = model.layout.gather(mine.delta, other.layout)
        assert np.linalg.norm(delta - other.delta) <= most * np.linalg.norm(other.delta)
