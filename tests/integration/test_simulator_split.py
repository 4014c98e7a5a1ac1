"""Whole simulated runs over a split model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.core.errors import ConfigError, UnknownNameError
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.tuning.learning import LocalResult
from fedloom.tuning.split_training import SplitTraining

STAGE = {
    "rounds": 3,
    "clients_per_round": 5,
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4},
}
SPLIT = {"bottom": 1, "top": 1}


def played(model: Path, folder: Path, split: dict[str, Any], **changes: Any) -> Run:
    table = classify_table(model)
    table["stages"] = [STAGE | changes.pop("stage", {})]
    table["run"] |= {"directory": str(folder), "cache_gb": 0.0}
    table["split"] = split
    observer = changes.pop("observer", Quiet())
    return fedloom.simulate(table | changes, data=labelled_rows(), observer=observer)


@pytest.mark.parametrize(
    "split", [SPLIT, {"bottom": 0, "top": 0}, {"labels": "far"}], ids=["four", "inner", "two"]
)
def test_own_copies_end_where_whole_models_do(
    text_model: dict[str, Path], tmp_path: Path, split: dict[str, Any]
) -> None:
    # Each client steps its own copy of everything, and all of it is averaged: FedAvg.
    backbone = text_model["classify"]
    whole = played(backbone, tmp_path / "whole", {})
    found = played(backbone, tmp_path / "split", split | {"mode": "v1"})
    assert found.params.vector.tobytes() == whole.params.vector.tobytes()
    np.testing.assert_array_equal(
        found.history["evaluation.loss"], whole.history["evaluation.loss"]
    )


AT_HOME = {"adapter": {"name": "lora", "rank": 4, "layers": [0, 2]}}


@pytest.mark.parametrize("top", [0, 1])
def test_frozen_far_blocks_change_nothing(
    text_model: dict[str, Path], tmp_path: Path, top: int
) -> None:
    backbone = text_model["classify"]
    home = {"adapter": AT_HOME["adapter"] | {"layers": [0, 2][: 1 + top]}}
    whole = played(backbone, tmp_path / "whole", {}, **home)
    split = {"mode": "frozen", "bottom": 1, "top": top}
    found = played(backbone, tmp_path / "split", split, **home)
    assert found.params.vector.tobytes() == whole.params.vector.tobytes()
    loss = whole.history["evaluation.loss"]
    np.testing.assert_array_equal(found.history["evaluation.loss"], loss)
    assert loss[-1] < loss[0]
    rough = played(backbone, tmp_path / "int8", split | {"codec_up": "int8"}, **home)
    moved = whole.params.vector - whole.prepared.model.initial(whole.prepared.job.seed).vector
    # Rounding to 1/127 of the largest of 64 numbers costs a small part of what is learnt.
    assert np.linalg.norm(rough.params.vector - whole.params.vector) < np.linalg.norm(moved) / 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, r"'\S*layer\.1\.\S*lora_A\S*' trains, and its block is far away.*adapter\.layers"),
        (
            {"adapter": {"name": "prefix", "tokens": 2}, "stage": {"train": ["head"]}},
            r"'\S*layer\.1\.\S*' changes the model before it trains",
        ),
        (AT_HOME | {"split": {"labels": "far"}}, "split.labels = 'far': only blocks are far"),
        (AT_HOME | {"tiers": [{"name": "a", "bottom": 0}]}, r"'\S*layer\.0\.\S*' trains, and its"),
        (
            {"stage": {"train": ["head"]}, "tiers": [{"name": "a", "train": ["layer.1"]}]},
            r"'\S*layer\.1\.\S*' trains, and its block is far away",
        ),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    text_model: dict[str, Path], tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    split = SPLIT | {"mode": "frozen"} | changes.pop("split", {})
    with pytest.raises(ConfigError, match=text):
        played(text_model["classify"], tmp_path, split, **changes)


def test_over_frozen_blocks_clients_are_cut_apart(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    # What trains is in the lowest block and the head, which everybody holds.
    home = {"adapter": AT_HOME["adapter"] | {"layers": [0]}, "stage": {"local": {"lr": 0.1}}}
    split = {"mode": "frozen", "bottom": 1, "top": 0}
    tiers = [{"name": "more", "share": 0.5, "bottom": 2}]
    whole = played(text_model["classify"], tmp_path / "whole", {}, **home)
    found = played(text_model["classify"], tmp_path / "split", split, tiers=tiers, **home)
    start = whole.prepared.model.initial(whole.prepared.job.seed)
    moved, expected = (run.params.vector - start.vector for run in (found, whole))
    assert np.linalg.norm(moved - expected) < 1e-5 * np.linalg.norm(expected)


def test_one_client_a_round_is_the_same_in_every_mode(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    ends = {
        played(
            text_model["classify"],
            tmp_path / mode,
            SPLIT | {"mode": mode},
            stage={"clients_per_round": 1},
        ).params.vector.tobytes()
        for mode in ("v1", "v2", "concat", "sequential")
    }
    assert len(ends) == 1


@pytest.mark.parametrize("labels", ["home", "far"])
@pytest.mark.parametrize("mode", ["v2", "concat", "sequential"])
def test_shared_far_tensors_learn_and_repeat(
    text_model: dict[str, Path], tmp_path: Path, mode: str, labels: str
) -> None:
    split = SPLIT | {"mode": mode, "labels": labels, "codec_up": "int8", "codec_down": "bf16"}
    first = played(text_model["classify"], tmp_path / "a", split)
    loss = first.history["evaluation.loss"]
    assert loss[-1] < loss[0]
    if mode == "sequential":
        return
    again = played(text_model["classify"], tmp_path / "b", split | {"recompute": True})
    assert again.params.vector.tobytes() == first.params.vector.tobytes()


def test_bytes_of_all_legs_are_counted(text_model: dict[str, Path], tmp_path: Path) -> None:
    runs = {
        codec: played(
            text_model["classify"],
            tmp_path / codec,
            SPLIT | {"mode": "v1", "codec_up": codec},
            stage={"rounds": 1},
        )
        for codec in ("float32", "bf16")
    }
    up, down = ({c: int(r.history[k][-1]) for c, r in runs.items()} for k in BYTES)
    # Two legs up and two down: of as many numbers, and of half the bytes in bf16. What is left
    # of the difference is the same in both: updates, and the examples' lengths.
    assert down["float32"] == down["bf16"]
    legs = 2 * (up["float32"] - up["bf16"])
    assert 0 < legs < min(up["float32"], down["float32"])
    rest = up["float32"] - legs
    model = runs["bf16"].prepared.model
    home = sum(s.size for s in model.layout if s.block != "layer.1")
    assert 5 * 4 * home < rest < 5 * 4 * model.layout.size


BYTES = ("bytes_up", "bytes_down")


class Listening(Quiet):
    """Keeps what a run has to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_kinds_of_devices_take_the_blocks_that_their_memory_holds(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: dict[str, int] = {}
    train = SplitTraining.train

    def listening(self: SplitTraining, *given: Any) -> list[LocalResult]:
        cuts.update((own.client, self.cut.first) for own in given[4])
        return train(self, *given)

    monkeypatch.setattr(SplitTraining, "train", listening)
    # A block keeps 4 * (3 * 32 + 3 * 32 + 64 + 4 * 32) bytes of each of 24 * 32 tokens: 1.1 MiB
    # beside weights of 0.03, and works in two as much. Without a block there is room in 1 MiB, with
    # one in 4, with two in 5.
    tiers = [
        {"name": "small", "share": 0.3, "memory_mb": 1},
        {"name": "middle", "share": 0.3, "memory_mb": 4},
        {"name": "large", "share": 0.3, "memory_mb": 5},
        {"name": "fixed", "share": 0.1, "memory_mb": 1, "bottom": 2},
    ]
    stage = {"clients_per_round": 12, "local": {"lr": 0.1, "batch_size": 24}}
    backbone, said = text_model["classify"], Listening()
    split = {"mode": "v1", "bottom": 0, "top": 0, "most_bottom": 2}
    run = played(backbone, tmp_path / "split", split, stage=stage, tiers=tiers, observer=said)
    blocks = {"": 0, "small": 0, "middle": 1, "large": 2, "fixed": 2}
    clients = [run.prepared.population.client(i) for i in range(12)]
    assert cuts == {client.id: blocks[client.tier] for client in clients}
    assert set(cuts.values()) == {0, 1, 2}
    found = [line for line in said.notes if line.startswith("tier")]
    starts = (
        "'small': split.bottom = 0",
        "'middle': split.bottom = 1",
        "'large': split.bottom = 2",
    )
    assert [line.partition(" takes ")[0] for line in found] == [f"tier {text}" for text in starts]
    # A client steps its own copy of everything: wherever it is cut, it ends where the whole model
    # does, but for the order in which a batch is summed.
    whole = played(backbone, tmp_path / "whole", {}, stage=stage)
    start = run.prepared.model.initial(run.prepared.job.seed)
    moved, expected = (r.params.vector - start.vector for r in (run, whole))
    assert np.linalg.norm(moved - expected) < 1e-5 * np.linalg.norm(expected)


def test_shared_far_tensors_go_with_memory_that_changes_nothing(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    tiers = [{"name": "a", "share": 0.5, "memory_mb": 99, "bottom": 1}]
    ends = {
        played(
            text_model["classify"],
            tmp_path / str(len(kinds)),
            SPLIT | {"mode": "concat"},
            stage={"rounds": 1},
            tiers=kinds,
        ).params.vector.tobytes()
        for kinds in (tiers, [])
    }
    assert len(ends) == 1


def test_finite_differences_move_what_clients_hold(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    run = played(
        text_model["classify"],
        tmp_path,
        SPLIT | {"mode": "v2"},
        stage={"local": {"lr": 0.01, "batch_size": 4, "steps": 2}, "rounds": 1},
        learner={"name": "finite-difference", "directions": 4},
    )
    layout, start = run.params.layout, run.prepared.model.initial(run.prepared.job.seed)
    moved = {
        spec.block
        for spec in layout
        if (run.params.vector != start.vector)[layout.span(spec.name)].any()
    }
    assert moved == {"layer.0", "layer.2", "head"}
    assert int(run.history["bytes_down"][-1]) > 0


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"split": {"mode": "v3"}}, ConfigError, "split.mode = 'v3': one of none, sequential"),
        ({"split": {"mode": "v1", "labels": "?"}}, ConfigError, "split.labels"),
        ({"split": {"mode": "v1"}}, ConfigError, "2 blocks below and 1 above leave none of 3"),
        (
            {"split": {"mode": "v1", "codec_up": "int4"}},
            UnknownNameError,
            "activation codec 'int4'",
        ),
        (
            {"split": SPLIT | {"mode": "v1"}, "learner": {"name": "forward-gradient"}},
            ConfigError,
            r"learner = 'forward-gradient': a split model .* goes with backprop, finite-diff",
        ),
        (
            {
                "split": SPLIT | {"mode": "v1"},
                "learner": {"name": "finite-difference"},
                "codec_up": {"name": "scalars"},
            },
            ConfigError,
            "codec_up = 'scalars': a split model .* is not followed by its steps",
        ),
        (
            {"split": SPLIT | {"mode": "v2"}, "tiers": [{"name": "a", "bottom": 0}]},
            ConfigError,
            "mode = 'v2', tiers.a.bottom = 0: its clients are cut alike; v1 allows",
        ),
        (
            {"split": SPLIT | {"mode": "v1"}, "tiers": [{"name": "a", "bottom": 2}]},
            ConfigError,
            "tiers.a.bottom, split.top: 2 blocks below and 1 above leave none of 3",
        ),
    ],
)
def test_what_a_split_model_cannot_do_is_refused(
    text_model: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    split = changes.pop("split")
    with pytest.raises(error, match=text):
        played(text_model["classify"], tmp_path, split, **changes)


def test_other_engines_have_no_blocks_to_cut_between(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    backbone = classify_table(text_model["classify"])["backbone"] | {"engine": "transformers"}
    with pytest.raises(ConfigError, match="only models of the fused engine can be cut"):
        played(Path(), tmp_path, SPLIT | {"mode": "v1"}, backbone=backbone)


@pytest.mark.parametrize("mode", ["v1", "v2", "concat", "sequential"])
def test_clients_that_diverge_are_refused_and_the_far_side_stays_sound(
    text_model: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    # A rate from which nothing recovers: every client's own numbers overflow in its first steps.
    run = played(
        text_model["classify"],
        tmp_path,
        SPLIT | {"mode": mode, "codec_up": "bf16"},
        stage={"local": {"optimizer": "sgd", "lr": 1e30, "batch_size": 4}, "rounds": 1},
    )
    assert np.isfinite(run.params.vector).all()
    assert run.history["refused"][-1] == 5
