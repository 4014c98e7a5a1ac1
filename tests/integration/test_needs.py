"""What training holds, from the shapes of tiny models, and by hand."""

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged
from walks import prepared

from fedloom.core.types import LocalWork
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.needs import memory_of

PLAN = [np.array([0, 1]), np.array([2])]


@pytest.mark.parametrize("engine", ["fused", "transformers"])
@pytest.mark.parametrize(("optimizer", "numbers"), [("sgd", 3), ("adamw", 5)])
def test_weights_activations_and_the_optimizers_numbers(
    model_folder: Folders, ragged: Ragged, engine: str, optimizer: str, numbers: int
) -> None:
    _, _, session = prepared(CASES["bert-mean"], model_folder, ragged, engine)
    work = LocalWork(optimizer=optimizer)
    found = memory_of(session, PLAN, 100, work, backward=True)
    tokens = max(session.tokens(rows) for rows in PLAN)
    assert found == session.memory(tokens, backward=True) + 4 * 100 * numbers
    weights = session.memory(0, backward=True)
    per_token = session.memory(1, backward=True) - weights
    assert session.memory(tokens, backward=True) == weights + tokens * per_token
    assert session.memory(1, backward=False) - weights <= per_token


def test_only_blocks_from_the_lowest_that_trains_are_kept(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert-mean"]
    model, _, _ = prepared(case, model_folder, ragged, "fused")
    assert isinstance(model, FusedModel)
    examples = case.examples(ragged)
    length = int(model.token_counts(examples).max())
    block = model.backbone.saved_bytes_per_token(length)
    for train, kept in (("*", model.depth), (f"layer.{model.depth - 1}", 1), ("head", 0)):
        own = model.session(model.initial(0), (train,), examples)
        taken = own.memory(1, backward=True) - own.memory(0, backward=True)
        assert taken == block * (kept + 2)  # and two blocks' worth to work in
        forward = own.memory(1, backward=False) - own.memory(0, backward=False)
        assert forward == block * 2
