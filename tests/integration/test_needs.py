"""What training holds, from the shapes of tiny models, and by hand."""

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged
from walks import prepared

from fedloom.core.types import LocalWork
from fedloom.tuning import needs
from fedloom.tuning.examples import TextExamples
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


def test_logits_are_those_of_answers_and_as_many_as_there_are_at_a_time(
    model_folder: Folders, ragged: Ragged, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 120 words, 16 bytes for each of a prediction. Of 12 tokens 9 are a prompt in one example, of
    # 8 there are 2 in the other: 6 of 8 tokens are predicted at most.
    model = CASES["gpt2-lm"].build(model_folder, "lora", engine="fused")
    tokens, offsets = np.arange(3, 23, dtype=np.int32), np.array([0, 12, 20])
    examples = TextExamples(tokens, offsets, None, np.array([9, 2], dtype=np.int32))
    every = TextExamples(tokens, offsets, None)
    session, other = (model.session(model.initial(0), ("*",), one) for one in (examples, every))
    for backward in (False, True):
        small = session.memory(16, backward=backward) - session.memory(0, backward=backward)
        large = other.memory(16, backward=backward) - other.memory(0, backward=backward)
        # Of 12 tokens without a prompt all but the first are predicted: 11 / 12 of 16 are 15.
        assert large - small == 16 * 120 * (15 - 12)
        monkeypatch.setattr(needs, "MOST_LOGITS", 16 * 120 * 5)
        few = session.memory(16, backward=backward) - session.memory(0, backward=backward)
        assert small - few == 16 * 120 * (12 - 5)
        monkeypatch.undo()
