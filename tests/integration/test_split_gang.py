"""Sessions whose batches a far side runs as one."""

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, start
from splits import Split, fused
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.packing import pack_images
from fedloom.core.errors import SplitError
from fedloom.core.types import LocalWork
from fedloom.tuning.batches import Batches
from fedloom.tuning.cut import Cut
from fedloom.tuning.gang import Batch, Gang
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.readout import places_of
from fedloom.tuning.stage import Stage

WORK = LocalWork(lr=0.1)
ROWS = {"a": np.arange(3), "b": np.arange(3, 5)}


def made(folders: Folders, ragged: Ragged, name: str, cut: Cut) -> Split:
    case = CASES[name]
    model = fused(case, folders, torch.float32)
    return Split(model, start(model), case.examples(ragged), cut)


def batches(split: Split) -> dict[str, Batch]:
    """Each client's hidden states: of any values, as they would be sent."""
    draw = torch.Generator().manual_seed(3)
    of, found = Batches(split.model, split.examples), {}
    for name, rows in ROWS.items():
        packing = of.packing([rows])
        hidden = torch.randn(1, packing.length, split.model.backbone.shape.width, generator=draw)
        places = places_of(split.model, split.examples, of.lengths, [rows], packing)
        found[name] = Batch(hidden, packing, places)
    return found


def alone(split: Split, name: str, batch: Batch, grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a session has of a batch, and what the far tensors move by it, by itself."""
    stage = split.stage(WORK, StageOptions("concat"))
    stage.open(name)
    if grad is not None:
        stage.forward(name, 1, batch.hidden, batch.packing, train=True)
        return stage.backward(name, 1, grad), stage.close(name)
    assert batch.places is not None
    _, dx = stage.losses(name, 1, batch.hidden, batch.packing, batch.places, train=True)
    return dx, stage.close(name)


def near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) < 1e-4 * float(wanted.norm())  # of float32 values


@pytest.mark.parametrize("cut", [Cut(1, 2), Cut(1, 3)])
@pytest.mark.parametrize("present", [("a", "b"), ("b",)])
def test_four_legs_as_one(
    model_folder: Folders, ragged: Ragged, cut: Cut, present: tuple[str, ...]
) -> None:
    # The stage moves by the mean of what each would move it by alone; each gradient is its own.
    split = made(model_folder, ragged, "bert", cut)
    gang = Gang(split.stage(WORK, StageOptions("concat")))
    sent = batches(split)
    out = gang.forward(1, sent)
    grads = {name: torch.cos(out[name]) for name in present}
    found = gang.backward(1, grads)
    moved = gang.close()
    by_hand = [alone(split, name, sent[name], grads[name]) for name in present]
    for name, (dx, _) in zip(present, by_hand, strict=True):
        near(found[name], dx)
    near(moved, torch.stack([m for _, m in by_hand]).mean(0))


@pytest.mark.parametrize("name", ["bert", "qwen2-lm"])
def test_two_legs_as_one(model_folder: Folders, ragged: Ragged, name: str) -> None:
    split = made(model_folder, ragged, name, Cut(1, 2 if name == "qwen2-lm" else 3, "far"))
    gang = Gang(split.stage(WORK, StageOptions("concat")))
    sent = batches(split)
    found = gang.losses(1, sent)
    by_hand = {n: alone(split, n, batch, None) for n, batch in sent.items()}
    for session, (said, dx) in found.items():
        near(dx, by_hand[session][0])
        places = sent[session].places
        assert places is not None
        assert len(said.each) == len(said.predicted) == len(places.index) == int(said.count)
        assert float(said.loss) == pytest.approx(float(said.each.mean()), rel=1e-5)
    near(gang.close(), torch.stack([m for _, m in by_hand.values()]).mean(0))


def test_who_is_refused(model_folder: Folders, ragged: Ragged) -> None:
    split = made(model_folder, ragged, "bert", Cut(1, 2))
    with pytest.raises(SplitError, match="joined in mode concat only"):
        Gang(split.stage(WORK, StageOptions("v1")))
    stage: Stage = split.stage(WORK, StageOptions("concat"))
    gang, sent = Gang(stage), batches(split)
    b = sent["b"]
    for bad, text in (
        (Batch(b.hidden * torch.nan, b.packing), "session b: step 1: hidden states: a value is"),
        (Batch(b.hidden[:, 1:], b.packing), "session b: step 1: hidden states: "),
        (_pair(b.hidden), "session b: 2 clients; a session of a gang is one"),
        (Batch(b.hidden, _all(b.packing)), r"batches read at \['None', 'first'\]; all alike"),
    ):
        with pytest.raises(SplitError, match=text):
            gang.forward(1, {**sent, "b": bad})
    with pytest.raises(SplitError, match="nobody brought a batch"):
        gang.forward(1, {})
    out = gang.forward(1, sent)
    with pytest.raises(SplitError, match="nobody brought a gradient"):
        gang.backward(1, {})
    with pytest.raises(SplitError, match="session c: had no part in step 1"):
        gang.backward(1, {"c": out["a"]})
    with pytest.raises(SplitError, match="session a: step 1: gradient"):
        gang.backward(1, {"a": out["a"][:, 1:]})
    gang.backward(1, out)
    with pytest.raises(SplitError, match="step 1: not held"):
        gang.backward(1, out)
    assert stage.version("gang") == 1


def _pair(hidden: Tensor) -> Batch:
    return Batch(hidden.new_ones(2, 3, hidden.shape[-1]), pack_images(2, 1, 3, read="first"))


def _all(packing: Packing) -> Packing:
    return pack_images(1, 1, packing.length, read=None)
