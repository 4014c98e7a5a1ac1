"""A cohort trained at once, its clients one by one, either engine, and peft: the same deltas."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import CASES, Case, Folders, Ragged, apart, cohort, start, train_at_once
from cohorts import train_one_by_one as one_by_one

from fedloom.core.layout import Selector
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.base import CohortModel, Task
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import LocalResult
from fedloom.tuning.prefix import CacheLimits

EPOCHS = LocalWork(
    epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0, prox_mu=0.1, head_lr=0.02
)
# Where the true gradient is zero (the biases of keys, which softmax cancels), Adam divides the
# noise of float additions by itself; a larger eps keeps that noise as small as it is.
STEPS = LocalWork(
    steps=5, batch_size=4, optimizer="adamw", lr=0.01, eps=1e-3, weight_decay=0.1, max_examples=8
)
ADAPTERS = ("lora", "ia3", "bitfit", "bottleneck", "full", "kv-parallel")
ALL = [
    pytest.param(name, adapter, work, id=f"{name}-{adapter}-{work.optimizer}")
    for name in CASES
    for adapter, work in [
        *((a, EPOCHS) for a in ADAPTERS),
        ("lora", STEPS),
        ("bitfit", STEPS),
        ("full", STEPS),
    ]
    if (name, adapter) != ("llama", "bitfit")  # it has no biases
]


@pytest.mark.parametrize(("name", "adapter", "work"), ALL)
def test_at_once_one_by_one_and_both_engines(
    model_folder: Folders, ragged: Ragged, name: str, adapter: str, work: LocalWork
) -> None:
    case = CASES[name]
    examples = case.examples(ragged)
    fused = case.build(model_folder, adapter, engine="fused")
    generic = case.build(model_folder, adapter, engine="transformers")
    assert fused.layout == generic.layout
    assert np.array_equal(fused.initial(3).vector, generic.initial(3).vector)
    alone = one_by_one(fused, examples, work)
    assert apart(train_at_once(fused, examples, work), alone) < 1e-5
    swapped = train_at_once(generic, examples, work)
    assert apart(swapped, alone) < 1e-5
    if adapter == "lora":  # of the others at once is compared with one by one above
        assert apart(one_by_one(generic, examples, work), swapped) < 1e-5
    for mine, other in zip(swapped, alone, strict=True):
        assert mine.metrics == pytest.approx(other.metrics, rel=1e-5)


@pytest.mark.parametrize("engine", ["fused", "transformers"])
@pytest.mark.parametrize(
    "train", [("head",), ("lora", "head"), ("layer.1", "head"), ("B",), ("lora", "!layer.0")]
)
def test_subsets_chosen_by_selectors(
    model_folder: Folders, ragged: Ragged, engine: str, train: Selector
) -> None:
    case = CASES["bert"]
    examples = case.examples(ragged)
    model = case.build(model_folder, "lora", engine=engine)
    found = train_at_once(model, examples, EPOCHS, train)
    assert found[0].layout == model.layout.select(train)
    reference = case.build(model_folder, "lora", engine="transformers")
    assert apart(found, one_by_one(reference, examples, EPOCHS, train)) < 1e-5


def test_one_step_moves_a_subset_as_it_moves_all(model_folder: Folders, ragged: Ragged) -> None:
    # With plain SGD and one step, what does not train has no say in what does.
    case, work = CASES["bert"], LocalWork(steps=1, batch_size=16, lr=0.1)
    model, examples = case.build(model_folder, "lora"), case.examples(ragged)
    whole = train_at_once(model, examples, work)
    for part in train_at_once(model, examples, work, ("A", "head")):
        (same,) = (r for r in whole if r.client == part.client)
        wanted = model.layout.gather(same.delta, part.layout)
        np.testing.assert_allclose(part.delta, wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [(name, "lora") for name in ("bert", "bert-mean", "llama", "qwen2-lm", "vit")]
    + [(name, "head") for name in ("bert", "bert-mean", "llama", "vit")],
)
def test_kept_activations_change_nothing(
    model_folder: Folders, ragged: Ragged, name: str, adapter: str
) -> None:
    case = CASES[name]
    options = {"layers": (-1,)} if adapter == "lora" else {}
    model, examples = case.build(model_folder, Component(adapter, options)), case.examples(ragged)
    assert isinstance(model, FusedModel)
    plain = train_at_once(model, examples, EPOCHS)
    assert apart(_with_cache(model, case, ragged, memory=10**7), plain) < 1e-5
    assert apart(_with_cache(model, case, ragged, memory=2 * 10**4), plain) < 1e-5


def _with_cache(model: FusedModel, case: Case, ragged: Ragged, memory: int) -> list[LocalResult]:
    params, examples = start(model), case.examples(ragged)
    limits = CacheLimits(memory=memory)
    cache = model.prefix_cache(params, ("*",), examples, order=None, limits=limits)
    assert cache is not None
    session = model.session(params, ("*",), examples, cache)
    return Backprop().train(session, params, EPOCHS, cohort())


def _plain_loop(
    model: CohortModel, case: Case, folders: Folders, ragged: Ragged, work: LocalWork
) -> list[np.ndarray]:
    """Each client with peft and torch alone; its delta by our names, laid end to end."""
    import peft
    import transformers

    params, examples = start(model), case.examples(ragged)
    assert isinstance(examples, TextExamples)
    assert examples.labels is not None
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]
    )
    deltas = []
    for one in cohort():
        base = transformers.BertForSequenceClassification.from_pretrained(
            case.folder(folders), num_labels=3
        )
        wrapped = peft.get_peft_model(base, config).eval()
        start_of = {
            f"base_model.model.{n}": torch.from_numpy(t.copy())
            for n, t in params.layout.unflatten(params.vector).items()
        }
        peft.set_peft_model_state_dict(wrapped, start_of)
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=work.lr, momentum=work.momentum)
        for batch in local_batches(one, work):
            texts = [torch.from_numpy(examples.ids(int(i)).astype(np.int64)) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(t) for t in texts], batch_first=True
            )
            labels = torch.from_numpy(examples.labels[batch])
            optimizer.zero_grad()
            wrapped(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, work.clip_norm)
            optimizer.step()
        state = peft.get_peft_model_state_dict(wrapped)
        end = {n: state[f"base_model.model.{n}"].numpy() for n in params.layout.names}
        deltas.append(params.layout.flatten(end) - params.vector)
    return deltas


@pytest.mark.filterwarnings(
    "ignore::FutureWarning"
)  # of what peft and transformers use of each other
def test_a_plain_loop_over_peft(model_folder: Folders, ragged: Ragged) -> None:
    case, work = (
        CASES["bert"],
        LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1),
    )
    model = case.build(model_folder, "lora")
    found = train_at_once(model, case.examples(ragged), work)
    for result, want in zip(
        found, _plain_loop(model, case, model_folder, ragged, work), strict=True
    ):
        assert np.linalg.norm(result.delta - want) < 1e-5 * np.linalg.norm(want)


def test_padding_does_not_hide_where_a_text_ends(
    model_folder: Folders, ragged: Ragged, tmp_path: Path
) -> None:
    # A classifier on a causal model reads the last token that is not padding, by its token id.
    case = CASES["llama"]
    shutil.copytree(case.folder(model_folder), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": 2}))
    folders = {(case.family, case.auto): tmp_path / "model"}
    fused, generic = (
        case.build(folders, "lora", engine=engine) for engine in ("fused", "transformers")
    )
    examples = case.examples(ragged)
    assert (
        apart(train_at_once(generic, examples, EPOCHS), train_at_once(fused, examples, EPOCHS))
        < 1e-5
    )


def test_a_new_head_starts_as_the_task_says(model_folder: Folders) -> None:
    # The folder holds no classifier: both engines start it at zero, not at random.
    case = Case("bert", "AutoModel", Task("classify", 3, "model"))
    for engine in ("fused", "transformers"):
        params = case.build(model_folder, "lora", engine=engine).initial(0)
        assert not params.layout.view(params.vector, "classifier.weight").any()
