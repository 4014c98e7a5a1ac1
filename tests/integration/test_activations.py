"""What a run keeps must not change what a resumed run, which has kept nothing, computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.activations import Activations
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.prefix import PrefixCache


def test_without_keeping_nothing_kept_earlier_is_recalled(
    model_folder: dict[tuple[str, str], Path],
    ragged: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model(
        model_folder["bert", "AutoModel"],
        Component("lora", {"rank": 2, "layers": (-1,)}),
        Task("classify", 3, "mean"),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    examples, params = TextExamples(*ragged), model.initial(0)
    rows = np.arange(10, dtype=np.int64)
    cohort = [Assignment("a", rows, 1, 0)]
    activations = Activations(model, 2**20, 0, tmp_path)
    kept = activations.session(params, ("*",), examples)
    Backprop().train(kept, params, LocalWork(batch_size=4), cohort)  # now there is a cache

    recalled: list[int] = []
    gather = PrefixCache.gather

    def counted(cache: PrefixCache, wanted: NDArray[np.int64]) -> torch.Tensor:
        recalled.append(len(wanted))
        return gather(cache, wanted)

    monkeypatch.setattr(PrefixCache, "gather", counted)
    Backprop().train(
        activations.session(params, ("*",), examples), params, LocalWork(batch_size=4), cohort
    )
    assert sum(recalled) == 10
    alone = activations.session(params, ("*",), examples, keep=False)
    Backprop().train(alone, params, LocalWork(batch_size=4), cohort)
    assert sum(recalled) == 10
