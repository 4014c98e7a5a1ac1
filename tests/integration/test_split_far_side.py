"""Learners without gradients, steps that are forgotten, rounding on the way, and refusals."""

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, apart, cohort, start
from splits import ALL, Split, fused

from fedloom.backbones.packing import pack_images
from fedloom.core.errors import ConfigError, SplitError
from fedloom.core.types import LocalWork
from fedloom.tuning.cut import Cut
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.near import NearStage
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.targets import Places

WORK = LocalWork(steps=2, batch_size=4, lr=0.05)
HOME = ("layer.0", "layer.2", "head")


@pytest.fixture
def split(model_folder: Folders, ragged: Ragged) -> Split:
    case = CASES["bert"]
    model = fused(case, model_folder, torch.float32)
    return Split(model, start(model), case.examples(ragged), Cut(1, 2))


def test_fedbert_with_one_client_is_training_in_one_place(
    model_folder: Folders, ragged: Ragged
) -> None:
    # Adam on both sides, float64, every step's loss (as accumulated by steps = 1, 2, ... 6).
    case = CASES["bert"]
    model = fused(case, model_folder, torch.float64)
    params, examples = start(model), case.examples(ragged)
    one = cohort()[3:4]
    for steps in range(1, 7):
        work = LocalWork(steps=steps, batch_size=4, lr=0.01, optimizer="adamw")
        session = model.session(params, ALL, examples)
        (whole,) = Backprop().train(session, params, work, one)
        split = Split(model, params, examples, Cut(0, 3), "float64")
        (found,), _ = split.at_once(one, work, StageOptions("sequential"))
        assert found.metrics == whole.metrics
        np.testing.assert_array_equal(found.delta, whole.delta)


@pytest.mark.parametrize(("codec", "bound"), [("float32", 0.0), ("bf16", 1e-2), ("int8", 3e-2)])
def test_what_codecs_lose_of_a_gradient(split: Split, codec: str, bound: float) -> None:
    session = split.model.session(split.params, ALL, split.examples)
    whole = Backprop().train(session, split.params, WORK, cohort())
    split.codec = codec
    found, _ = split.at_once(cohort(), WORK, StageOptions("v1"))
    assert apart(found, whole) <= bound
    again, _ = split.at_once(cohort(), WORK, StageOptions("v1"))
    assert apart(found, again) == 0


@pytest.mark.parametrize("clients", [1, 3])
def test_finite_differences_through_a_far_span(split: Split, clients: int) -> None:
    split.train = HOME
    learner = FiniteDifference(directions=4, send="tensors")
    some = cohort()[:clients]
    session = split.model.session(split.params, HOME, split.examples)
    whole = learner.train(session, split.params, WORK, some)
    stage = split.stage(WORK, StageOptions("v1"))
    far = NearStage(stage, tuple(a.client for a in some), split.codecs())
    found = learner.train(split.session([far]), split.params, WORK, some)
    assert apart(found, whole) < 1e-3  # float association, divided by a small h
    assert not far.close().any()
    assert stage.held_bytes == 0


def test_an_evicted_step_is_sent_again_and_changes_nothing(split: Split) -> None:
    deltas, counted = [], []
    for credit in (2, 1):
        options = StageOptions("v1", credit=credit)
        stage = split.stage(LocalWork(lr=0.1), options)
        far = NearStage(stage, ("c",), split.codecs())
        session = split.session([far])
        store = session.store(split.params, 1)
        first, second = (session.losses(store, [np.arange(3) + i]) for i in (0, 3))
        first.loss.sum().backward()
        second.loss.sum().backward()
        deltas.append((store.grad.clone(), far.close()))
        counted.append(sum(far.bytes.up))
    assert all(torch.equal(a, b) for a, b in zip(*deltas, strict=True))
    assert counted[1] > counted[0]


def test_memory_is_bounded_and_recomputing_takes_less(split: Split) -> None:
    held = []
    for recompute in (False, True):
        stage = split.stage(WORK, StageOptions("v1", recompute=recompute))
        session = split.session([NearStage(stage, ("c",), split.codecs())])
        session.losses(session.store(split.params, 1), [np.arange(3)])
        held.append(stage.held_bytes)
    assert 0 < held[1] < held[0] / 3
    small = split.stage(WORK, StageOptions("v1", max_bytes=held[1] - 1, recompute=True))
    session = split.session([NearStage(small, ("c",), split.codecs())])
    with pytest.raises(SplitError, match=r"at most \d+ are held: send smaller") as caught:
        session.losses(session.store(split.params, 1), [np.arange(3)])
    assert caught.value.code == "memory"


def test_bytes_of_every_leg(split: Split) -> None:
    stage = split.stage(WORK, StageOptions("v1"))
    far = NearStage(stage, ("a", "b"), split.codecs())
    session = split.session([far])
    rows = [np.arange(3), np.arange(3, 5)]
    session.losses(session.store(split.params, 2), rows).loss.sum().backward()
    width = split.model.backbone.shape.width
    # Each of four legs is 4 bytes for each number of each token; 4 for each example's length.
    leg = [4 * width * session.tokens(own) for own in rows]
    assert far.bytes.up == [2 * leg[0] + 4 * 3, 2 * leg[1] + 4 * 2]
    assert far.bytes.down == [2 * leg[0], 2 * leg[1]]


def test_a_client_that_diverges_spoils_no_other(split: Split) -> None:
    stage = split.stage(WORK, StageOptions("concat"))
    far = NearStage(stage, ("a", "b"), split.codecs())
    packing = pack_images(2, 1, 3, read="first")
    hidden = torch.ones(2, 3, split.model.backbone.shape.width)
    hidden[1, 0, 0] = torch.nan
    out = far.forward(1, hidden, packing, train=True)
    assert torch.isfinite(out[0]).all()
    assert torch.isnan(out[1]).all()
    far.backward(1, out)
    assert torch.isfinite(far.close()).all()


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        (Cut(2, 2), r"cut 2 to 2 of 3 blocks: expected 0 <= first < last <= 3"),
        (Cut(0, 4), r"cut 0 to 4 of 3 blocks"),
        (Cut(-1, 2), r"cut -1 to 2"),
        (Cut(1, 2, "far"), r"so is all that lies above: last = 3"),
        (Cut(1, 2, "away"), r"labels = 'away': one of home, far"),
    ],
)
def test_wrong_cuts_are_refused(split: Split, cut: Cut, text: str) -> None:
    split.cut = cut
    with pytest.raises(SplitError, match=text):
        split.stage(WORK, StageOptions())
    with pytest.raises(SplitError, match=text):
        split.session([])


def test_legs_that_cannot_be_used_are_refused_and_move_nothing(split: Split) -> None:
    stage = split.stage(WORK, StageOptions("v1", max_length=4))
    stage.open("c")
    packing = pack_images(1, 2, 3, read="first")
    hidden = torch.ones(1, 6, split.model.backbone.shape.width)

    def refused(code: str, step: int, values: torch.Tensor, clients: int = 1) -> None:
        packed = pack_images(clients, 2, 3, read="first")
        with pytest.raises(SplitError) as caught:
            stage.forward("c", step, values, packed, train=True)
        assert caught.value.code == code

    refused("shape", 1, hidden[:, :5])
    refused("shape", 1, torch.cat((hidden, hidden)), clients=2)
    refused("dtype", 1, hidden.long())
    refused("not-finite", 1, hidden / 0)
    with pytest.raises(SplitError, match=r"an example of 5 tokens; agreed were 4"):
        stage.forward("c", 1, hidden[:, :5], pack_images(1, 1, 5), train=True)
    with pytest.raises(SplitError, match=r"step 1: not held") as caught:
        stage.backward("c", 1, hidden)
    assert caught.value.code == "evicted"
    stage.forward("c", 1, hidden, packing, train=True)
    for bad in (hidden[:, :2], hidden * torch.nan):
        with pytest.raises(SplitError, match="step 1: gradient"):
            stage.backward("c", 1, bad)
    stage.backward("c", 1, hidden)
    refused("order", 1, hidden)
    with pytest.raises(SplitError, match="step 1 after step 1, which is done"):
        stage.backward("c", 1, hidden)
    with pytest.raises(SplitError, match="session c: open already"):
        stage.open("c")
    with pytest.raises(SplitError, match="session d: not open"):
        stage.forward("d", 1, hidden, packing, train=True)
    assert stage.version("c") == 1
    assert stage.done("c") == 1


def test_labels_stay_where_the_cut_says(split: Split) -> None:
    places = Places(np.arange(2), np.array([0, 3]), np.zeros(2, np.int64))
    packing = pack_images(1, 2, 3, read="first")
    hidden = torch.ones(1, 6, split.model.backbone.shape.width)
    home = split.stage(WORK, StageOptions())
    home.open("c")
    with pytest.raises(SplitError, match="labels of this session stay at home"):
        home.losses("c", 1, hidden, packing, places, train=True)
    split.cut = Cut(1, 3, "far")
    far = split.stage(WORK, StageOptions())
    far.open("c")
    with pytest.raises(SplitError, match="labels of this session are far away"):
        far.forward("c", 1, hidden, packing, train=True)
    with pytest.raises(SplitError, match=r"target from 0 to 3; expected 0 to 2"):
        far.losses("c", 1, hidden, packing, places, train=True)


def test_turns(split: Split) -> None:
    stage = split.stage(WORK, StageOptions("sequential"))
    stage.open("a")
    with pytest.raises(SplitError, match="another client has its turn") as caught:
        stage.open("b")
    assert caught.value.code == "busy"
    stage.close("a")
    stage.open("b")
    with pytest.raises(SplitError, match="mode v2 takes them one by one"):
        split.stage(WORK, StageOptions("v2")).open("a", 2)
    with pytest.raises(ConfigError, match=r"split.mode = 'v3': one of sequential, v1, v2"):
        StageOptions("v3")
