"""Heads of words on both engines, against the language models that they are taken from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answers import WORDS, bytes_pairs, pieces
from cohorts import CPU, apart, cohort, start, train_at_once, train_one_by_one
from numpy.typing import NDArray
from walks import ONE, measured, true_slopes

from fedloom.core.errors import ConfigError
from fedloom.core.job import DataConfig, Job, job_from
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.data import corpus_from_rows
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.forward_gradient import Tangents
from fedloom.tuning.prefix import CacheLimits
from fedloom.tuning.reading import reading_of
from fedloom.tuning.word_heads import SHARPNESS

ANSWERS = ("great", "bad", "fine")
CLASSES = ("art", "news", "sport")
ENGINES = ("fused", "transformers")
WORK = LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0)
Folders = dict[tuple[str, str], Path]
KINDS = {
    "mean": (("bert", "AutoModel"), "news about {text}"),
    "last": (("llama", "AutoModelForCausalLM"), "news: {text}\nit was"),
    "mask": (("bert", "AutoModelForMaskedLM"), "news : {text} it was {mask}."),
}


def job(kind: str, folders: Folders, tmp_path: Path, **backbone: Any) -> Job:
    """A job on a small model with a tokenizer beside it."""
    key, pattern = KINDS[kind]
    folder = tmp_path / kind
    if not folder.is_dir():
        folder.mkdir()
        for path in folders[key].iterdir():
            if path.name != "tokenizer.json":
                (folder / path.name).write_bytes(path.read_bytes())
        tokenizer = bytes_pairs() if kind == "last" else pieces()
        tokenizer.save(str(folder / "tokenizer.json"))
    own = {"name": str(folder), "pooling": kind, "pattern": pattern, "head_init": "words"}
    table = {"backbone": {**own, "words": list(ANSWERS), "max_tokens": 24, **backbone}}
    return job_from({**table, "adapter": {"name": "lora", "rank": 2}})


def built(one: Job) -> CohortModel:
    folder = Path(one.backbone.name)
    return model_of(one, folder, CLASSES, dtype=torch.float32, device=CPU)


def texts(count: int = 40) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(count)]


def examples(one: Job, count: int = 40) -> TextExamples:
    rows = [
        {"text": text, "label": CLASSES[i % 3], "split": "test" if i >= count else "train"}
        for i, text in enumerate(texts(count + 1))
    ]
    read = reading_of(one.backbone, Path(one.backbone.name))
    found = corpus_from_rows(rows, DataConfig(split="split"), read).train
    assert isinstance(found, TextExamples)
    return found


def said(model: CohortModel, own: TextExamples) -> NDArray[np.float32]:
    """Log-probabilities ``[N, C]`` of every class before any training."""
    params, every = model.initial(0), np.arange(len(own))
    columns = []
    for c in range(len(CLASSES)):
        asked = replace(own, labels=np.full(len(own), c))
        session = model.session(params, (), asked)
        columns.append(session.losses(session.store(params, 1), [every]).each)
    return -torch.stack(columns, 1).numpy()


def whole_model(
    one: Job, auto: str, own: TextExamples, place: Callable[[Any], int]
) -> torch.Tensor:
    """The logits of all tokens at one place of each text, by transformers alone."""
    import transformers

    model = getattr(transformers, auto).from_pretrained(one.backbone.name).eval()
    with torch.no_grad():
        rows = [torch.from_numpy(own.ids(i).astype(np.int64)) for i in range(len(own))]
        return torch.stack([model(input_ids=ids[None]).logits[0, place(ids)] for ids in rows])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["last", "mask"])
def test_it_answers_as_the_language_model_does(
    kind: str, engine: str, model_folder: Folders, tmp_path: Path
) -> None:
    one = job(kind, model_folder, tmp_path, engine=engine)
    own, (_, auto) = examples(one), KINDS[kind][0]
    mask = pieces().token_to_id("[MASK]")
    place = {"last": lambda ids: -1, "mask": lambda ids: int((ids == mask).nonzero())}[kind]
    logits = whole_model(one, auto, own, place)
    if kind == "last":
        tokens = [bytes_pairs().encode(f" {word}").ids[0] for word in ANSWERS]
    else:
        tokens = [pieces().encode(word).ids[1] for word in ANSWERS]
    model = built(one)
    expected = torch.log_softmax(logits[:, tokens], 1).numpy()
    np.testing.assert_allclose(said(model, own), expected, rtol=0, atol=1e-5)
    if isinstance(model, FusedModel):  # not only up to a constant
        params = model.initial(0)
        tensors = params.layout.unflatten(params.vector)
        read = model.session(params, ("head",), own).frozen_activations(np.arange(len(own)))
        found = read.numpy() @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        np.testing.assert_allclose(found, logits[:, tokens].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_encoder_answers_with_the_nearest_word(
    engine: str, normalize: bool, model_folder: Folders, tmp_path: Path
) -> None:
    import transformers

    one = job("mean", model_folder, tmp_path, engine=engine, normalize=normalize)
    own, tokenizer = examples(one), pieces()
    encoder = transformers.BertModel.from_pretrained(one.backbone.name).eval()

    def vector(ids: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return found.mean(0)

    vectors = torch.stack([vector(tokenizer.encode(f"news about {w}").ids) for w in ANSWERS])
    read = torch.stack([vector(own.ids(i).tolist()) for i in range(len(own))])
    unit = torch.nn.functional.normalize
    # logits are 20 cosines where the text's vector is made as long as is said, else about so many
    length = read.norm(dim=1, keepdim=True) if normalize else vectors.norm(dim=1).mean()
    logits = SHARPNESS * read @ unit(vectors, dim=1).T / length
    expected = torch.log_softmax(logits, 1).numpy()
    np.testing.assert_allclose(said(built(one), own), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_start_and_training_on_both_engines(
    kind: str, model_folder: Folders, tmp_path: Path
) -> None:
    fused, generic = (built(job(kind, model_folder, tmp_path, engine=e)) for e in ENGINES)
    own = examples(job(kind, model_folder, tmp_path))
    assert fused.layout == generic.layout
    first, other = fused.initial(3).vector, generic.initial(3).vector
    np.testing.assert_allclose(first, other, rtol=0, atol=1e-6 if kind == "mean" else 0)
    alone = train_one_by_one(fused, own, WORK)
    assert apart(train_at_once(fused, own, WORK), alone) < 1e-5
    assert apart(train_at_once(generic, own, WORK), alone) < 1e-4


@pytest.mark.parametrize("train", [("head",), ("lora", "head")])
@pytest.mark.parametrize("kind", ["last", "mask"])
def test_kept_activations_change_nothing(
    kind: str, train: tuple[str, ...], model_folder: Folders, tmp_path: Path
) -> None:
    one = job(kind, model_folder, tmp_path)
    one = replace(one, adapter=Component("lora", {"rank": 2, "layers": (-1,)}))
    model, own = built(one), examples(one)
    assert isinstance(model, FusedModel)
    params = model.initial(0)
    limits = CacheLimits(memory=10**7)
    cache = model.prefix_cache(params, train, own, order=None, limits=limits)
    assert cache is not None
    kept = model.session(params, train, own, cache)
    plain = model.session(params, train, own)
    found, expected = (Backprop().train(s, params, WORK, cohort()) for s in (kept, plain))
    assert apart(found, expected) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["last", "mask"])
def test_slopes_without_a_backward_pass_are_those_of_autograd(
    kind: str, engine: str, model_folder: Folders, tmp_path: Path
) -> None:
    one = job(kind, model_folder, tmp_path, engine=engine)
    model = built(one)
    params = start(model)
    session = model.session(params, ("*",), examples(one))
    z = torch.randn(5, model.layout.size, generator=torch.Generator().manual_seed(0))
    gradients = np.stack(true_slopes(session, params, ONE))
    want = (gradients * z.double().numpy()).sum(1)
    found = measured(Tangents(), session, params, z)
    size = np.linalg.norm(gradients, axis=1)  # of the terms that a slope is the sum of
    assert (np.abs(found - want) <= 1e-5 * size).all()


def test_a_backbone_that_cannot_answer_is_refused(model_folder: Folders, tmp_path: Path) -> None:
    one = job("mean", model_folder, tmp_path)
    for engine in ENGINES:
        asked = replace(one.backbone, pooling="last", engine=engine)
        text = r"backbone\.pooling = 'last': mean or mask: the backbone has no causal language"
        with pytest.raises(ConfigError, match=text):
            built(replace(one, backbone=asked))
    asked = replace(one.backbone, pooling="mask", pattern="{text} {mask}")
    with pytest.raises(ConfigError, match="has no head of a masked language model"):
        built(replace(one, backbone=asked))
