"""Learning from few labels: what is learned from, what is not looked at, and what travels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import WORDS, labelled_rows

import fedloom
from fedloom.core.config import read_toml
from fedloom.core.errors import ConfigError
from fedloom.core.job import job_from
from fedloom.core.types import LocalWork, Params
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.sources import recipes
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.data import corpus_from_rows
from fedloom.tuning.examples import Examples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.pseudo_labels import PseudoLabels
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.reading import reading_of
from fedloom.tuning.sparing import Sparing

ROWS = labelled_rows(96, clients=4)
WORK = LocalWork(lr=0.1, batch_size=4)
EVERYONE: dict[str, Any] = {"pacing": "fixed", "count": 100}


class Small:
    """A tiny model with examples of which some have a label."""

    def __init__(self, folder: Path, engine: str = "auto") -> None:
        self.job = job_from(
            {
                "backbone": {"max_tokens": 32, "head_init": "normal", "engine": engine},
                "data": {"client": "client", "split": "split"},
                "adapter": {"name": "bitfit"},
            }
        )
        reading = reading_of(self.job.backbone, folder)
        self.corpus = corpus_from_rows(ROWS, self.job.data, reading)
        cpu = torch.device("cpu")
        classes = self.corpus.classes
        self.model: CohortModel = model_of(
            self.job, folder, classes, dtype=torch.float32, device=cpu
        )
        self.params: Params = self.model.initial(0)

    @property
    def labels(self) -> np.ndarray:
        assert self.corpus.train.labels is not None
        return self.corpus.train.labels

    def train(
        self, learner: Any, labels: np.ndarray, clients: int = 2, round: int = 3
    ) -> list[LocalResult]:
        examples: Examples = self.corpus.train.labelled(labels)
        session = self.model.session(self.params, ("*",), examples)
        rows = np.array_split(np.arange(len(labels)), clients)
        cohort = [Assignment(f"c{i}", own, round, 0) for i, own in enumerate(rows)]
        found: list[LocalResult] = learner.train(session, self.params, WORK, cohort)
        return found

    def teacher(self) -> np.ndarray:
        session = self.model.session(self.params, ("*",), self.corpus.train)
        losses = session.losses(session.store(self.params, 1), [np.arange(len(self.labels))])
        return losses.predicted.numpy()


def hidden(labels: np.ndarray, every: int = 4) -> np.ndarray:
    return np.where(np.arange(len(labels)) % every == 0, labels, -1)


@pytest.mark.parametrize("engine", ["fused", "transformers"])
def test_hard_labels_are_what_the_model_of_the_round_says(
    text_model: dict[str, Path], engine: str
) -> None:
    small = Small(text_model["classify"], engine)
    few = hidden(small.labels)
    found = small.train(PseudoLabels(**EVERYONE), few)
    # The batches are drawn from rows in another order: each epoch is one batch here.
    taught = np.where(few >= 0, few, small.teacher())
    one = replace(WORK, batch_size=100)
    examples = small.corpus.train.labelled(few)
    session = small.model.session(small.params, ("*",), examples)
    cohort = [Assignment("c", np.arange(len(few)), 1, 0)]
    (pseudo,) = PseudoLabels(**EVERYONE).train(session, small.params, one, cohort)
    whole = small.model.session(small.params, ("*",), examples.labelled(taught))
    (plain,) = Backprop().train(whole, small.params, one, cohort)
    np.testing.assert_allclose(pseudo.delta, plain.delta, atol=2e-6)
    assert pseudo.num_examples == len(few)
    assert pseudo.metrics["pseudo"] == (few < 0).sum()
    assert sum(result.num_examples for result in found) == len(few)


def test_soft_labels_of_its_own_teach_the_teacher_nothing(text_model: dict[str, Path]) -> None:
    small = Small(text_model["classify"])
    nothing = np.full(len(small.labels), -1)
    one = replace(WORK, batch_size=100)
    session = small.model.session(small.params, ("*",), small.corpus.train.labelled(nothing))
    cohort = [Assignment("c", np.arange(len(nothing)), 1, 0)]
    (found,) = PseudoLabels(soft=True, **EVERYONE).train(session, small.params, one, cohort)
    # KL(p || p) = 0, and so is its gradient: p - p
    assert np.abs(found.delta).max() < 1e-6
    assert found.metrics["loss"] == pytest.approx(0, abs=1e-6)


def test_a_sharper_teacher_teaches_what_it_says_more_decidedly(
    text_model: dict[str, Path],
) -> None:
    small = Small(text_model["classify"])
    nothing = np.full(len(small.labels), -1)
    one = replace(WORK, batch_size=100)
    session = small.model.session(small.params, ("*",), small.corpus.train.labelled(nothing))
    cohort = [Assignment("c", np.arange(len(nothing)), 1, 0)]
    sharp = PseudoLabels(soft=True, temperature=1e-3, **EVERYONE)
    (found,) = sharp.train(session, small.params, one, cohort)
    (hard,) = PseudoLabels(**EVERYONE).train(session, small.params, one, cohort)
    # softmax(z / T) for a small T has all its weight on the largest
    np.testing.assert_allclose(found.delta, hard.delta, atol=1e-4)
    assert np.abs(found.delta).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"choose": "best"}, "choose = 'best'.*sampled, surest"),
        ({"least": 1.0}, "least = 1.0"),
        ({"keep": 0.0}, "keep = 0.0"),
        ({"neighbours": 0}, "neighbours = 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PseudoLabels(**options)


def test_with_every_label_it_is_backprop(text_model: dict[str, Path]) -> None:
    small = Small(text_model["classify"])
    pairs = zip(
        small.train(PseudoLabels(), small.labels), small.train(Backprop(), small.labels),
        strict=True,
    )  # fmt: skip
    for own, plain in pairs:
        np.testing.assert_allclose(own.delta, plain.delta, atol=1e-6)
        assert own.num_examples == plain.num_examples


def test_a_client_does_the_same_whoever_else_is_there(text_model: dict[str, Path]) -> None:
    small = Small(text_model["classify"])
    few = hidden(small.labels)
    learner = PseudoLabels(share=0.2, keep=0.5, neighbours=5)
    for own, result in zip(
        np.array_split(np.arange(len(few)), 2), small.train(learner, few), strict=True
    ):
        session = small.model.session(small.params, ("*",), small.corpus.train.labelled(few))
        alone = Assignment(result.client, own, 3, 0)
        again = PseudoLabels(share=0.2, keep=0.5, neighbours=5)
        (found,) = again.train(session, small.params, WORK, [alone])
        assert found.num_examples == result.num_examples
        np.testing.assert_allclose(found.delta, result.delta, atol=1e-6)


def test_a_client_with_nothing_to_learn_from_is_of_no_examples(
    text_model: dict[str, Path],
) -> None:
    small = Small(text_model["classify"])
    few = small.labels.copy()
    few[: len(few) // 2] = -1
    idle, busy = small.train(PseudoLabels(after=5), few)
    assert (idle.num_examples, busy.num_examples) == (0, len(few) - len(few) // 2)
    assert not idle.delta.any()
    sure = PseudoLabels(least=0.999, **EVERYONE)
    assert small.train(sure, few)[0].num_examples == 0


def table(name: str, models: dict[str, Path], folder: Path, **data: Any) -> dict[str, Any]:
    found = read_toml(recipes()[name])
    found["backbone"] |= {"name": str(models["classify"]), "max_tokens": 32}
    found["data"] |= {"client": "client", "split": "split", "labels": 9, "label_clients": 3}
    found["data"] |= {"max_clients": 0, **data}
    found["learner"] |= {"after": 1, "least": 0.0, "share": 0.2}
    found["run"] = {"directory": str(folder), "workers": 1, "cache_gb": 0.1, "cache_disk_gb": 0.0}
    return found | {"rounds": 4, "clients_per_round": 6, "evaluate": {"every": 4}}


def garbled(rows: list[dict[str, str]], run: Run) -> list[dict[str, str]]:
    """Rows whose training labels are others, but for those that a run learned from."""
    labels = run.prepared.corpus.train.labels
    assert labels is not None
    names, place, out = sorted(WORDS), 0, []
    for row in rows:
        own = dict(row)
        if row["split"] == "train":
            if labels[place] < 0:
                own["label"] = names[(names.index(row["label"]) + 1) % 3]
            place += 1
        out.append(own)
    return out


@pytest.mark.parametrize("name", ["fes", "lp-fl"])
def test_labels_that_are_not_given_are_never_read(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    rows = labelled_rows()
    one = fedloom.simulate(table(name, text_model, tmp_path / "a"), data=rows, observer=Quiet())
    other = fedloom.simulate(
        table(name, text_model, tmp_path / "b"), data=garbled(rows, one), observer=Quiet()
    )
    labels = one.prepared.corpus.train.labels
    assert labels is not None
    assert (labels >= 0).sum() == 9
    assert np.array_equal(one.params.vector, other.params.vector)
    assert not np.array_equal(one.params.vector, one.prepared.model.initial(0).vector)


def test_those_without_labels_sit_the_first_rounds_out(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    given = table("fes", text_model, tmp_path) | {"clients_per_round": 12}
    run = fedloom.simulate(given, data=labelled_rows(), observer=Quiet())
    assert list(run.history["refused"]) == [0, 9, 0, 0, 0]  # of 12 clients 3 have labels


@pytest.mark.parametrize(("name", "part"), [("fes", "bias"), ("lp-fl", "lora")])
def test_only_biases_or_lora_and_the_new_head_travel(
    name: str, part: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    given = table(name, text_model, tmp_path) | {"clients_per_round": 12}
    run = fedloom.simulate(given, data=labelled_rows(), observer=Quiet())
    layout = run.params.layout
    assert all(spec.tags & {part, "head"} for spec in layout)
    head = sum(spec.size for spec in layout if "head" in spec.tags)
    assert head == 32 * 3 + 3
    bytes_up = run.history["bytes_up"][-1] / 12
    assert bytes_up == pytest.approx(4 * layout.size, abs=100)  # and the frame's own


def test_a_learner_without_use_for_them_is_told_so(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    given = table("fes", text_model, tmp_path) | {"learner": "backprop"}
    with pytest.raises(
        ConfigError, match=r"data\.unlabelled = true: every learner must have a use"
    ):
        fedloom.simulate(given, data=labelled_rows(), observer=Quiet())
    run = fedloom.simulate(
        given | {"data": {**given["data"], "unlabelled": False}},
        data=labelled_rows(),
        observer=Quiet(),
    )
    assert len(run.prepared.corpus.train) == 9


def test_rows_of_a_file_may_lack_a_label(text_model: dict[str, Path], tmp_path: Path) -> None:
    rows = [{**row, "label": ""} if i % 3 else row for i, row in enumerate(labelled_rows())]
    given = table("fes", text_model, tmp_path, labels=0)
    run = fedloom.simulate(given, data=rows, observer=Quiet())
    labels = run.prepared.corpus.train.labels
    assert labels is not None
    assert 0 < (labels >= 0).sum() < len(labels) / 2
    test = run.prepared.corpus.test.labels
    assert test is not None
    assert (test >= 0).all()


def test_batches_in_parts_are_the_whole(text_model: dict[str, Path]) -> None:
    small = Small(text_model["classify"])
    labels = hidden(small.labels)
    session = small.model.session(small.params, ("*",), small.corpus.train.labelled(labels))
    rows = np.array_split(np.arange(len(labels)), 2)
    cohort = [Assignment(f"c{i}", own, 3, 0) for i, own in enumerate(rows)]
    found = [
        PseudoLabels(**EVERYONE).train(own, small.params, WORK, cohort)
        for own in (session, Sparing(session, 1))
    ]
    for whole, parts in zip(*found, strict=True):
        assert np.abs(whole.delta).max() > 0
        np.testing.assert_allclose(parts.delta, whole.delta, rtol=1e-4, atol=1e-6)
