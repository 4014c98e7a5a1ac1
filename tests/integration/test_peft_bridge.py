"""Methods of the peft library: trained here as a plain loop trains them, and back in peft."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, CPU, Case, Folders, Ragged, cohort
from numpy.typing import NDArray
from test_export import in_peft, losses_in_peft

from fedloom.core.component import Option
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.layout import Selector
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import CohortModel, Task
from fedloom.tuning.bridged_model import BridgedModel
from fedloom.tuning.build import build_model
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.export import export_adapter, load_adapter
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import LocalResult

# What peft and transformers use of each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

WORK = LocalWork(epochs=2, batch_size=4, lr=0.1, momentum=0.9)
QV = ("query", "value")
METHODS: dict[str, tuple[str, dict[str, Option]]] = {
    "vera": ("bert", {"method": "vera", "r": 4, "target_modules": QV}),
    "dora": ("bert", {"method": "LORA", "r": 4, "use_dora": True, "target_modules": QV}),
    "loha": ("bert-mean", {"method": "LOHA", "r": 4, "target_modules": QV}),
    "images": ("vit", {"method": "LOKR", "r": 4, "target_modules": ("q_proj",)}),
    "prompt": ("qwen2-lm", {"method": "PROMPT_TUNING", "num_virtual_tokens": 4}),
    "prompt-mean": ("bert-mean", {"method": "PROMPT_TUNING", "num_virtual_tokens": 4}),
    "prefix": ("gpt2-lm", {"method": "PREFIX_TUNING", "num_virtual_tokens": 3}),
}
# PEFT saves the prompt that this one's network makes, not the network.
REPARAMETRISED: tuple[str, dict[str, Option]] = (
    "qwen2-lm",
    {"method": "P_TUNING", "num_virtual_tokens": 4, "encoder_hidden_size": 8},
)


def built(case: Case, folders: Folders, options: dict[str, Option]) -> BridgedModel:
    model = case.build(folders, Component("peft", options))
    assert isinstance(model, BridgedModel)
    return model


def trained(
    model: CohortModel, examples: Examples, train: Selector = ("*",)
) -> tuple[LocalResult, Params]:
    """What the first client's round gives, and the model that it ends with."""
    params = model.initial(3)
    session = model.session(params, train, examples)
    (result,) = Backprop().train(session, params, WORK, cohort()[:1])
    vector = params.layout.scatter(
        params.vector,
        result.layout,
        params.layout.gather(params.vector, result.layout) + result.delta,
    )
    return result, Params(params.layout, vector)


def check_in_peft(
    case: Case, folders: Folders, ragged: Ragged, options: dict[str, Option], folder: Path
) -> None:
    examples = case.examples(ragged)
    model = built(case, folders, options)
    result, params = trained(model, examples)
    moved = model.layout.unflatten(result.delta)
    assert np.isfinite(result.delta).all()
    assert any(moved[spec.name].any() for spec in model.layout if "peft" in spec.tags)
    few = examples.take(np.arange(0, 40, 6))
    export_adapter(model, params, folder)
    here = evaluate(model.session(params, (), few), params, few).loss
    loaded = in_peft(case, folders, folder)
    there = losses_in_peft(_Cut(loaded, case), case, few, folder)
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)
    again, _ = load_adapter(folder)
    assert np.array_equal(again.vector, params.vector)


class _Cut:
    """A model of peft without what it says at virtual tokens."""

    def __init__(self, model: Any, case: Case) -> None:
        self._model, self._mean = model, case.task.pooling == "mean"

    def __call__(self, **inputs: torch.Tensor) -> Any:
        out = self._model(**inputs)
        if "input_ids" in inputs:
            width = inputs["input_ids"].shape[1]
            for name in ("logits", "last_hidden_state"):
                value = getattr(out, name, None)
                if value is not None and value.ndim == 3:
                    setattr(out, name, value[:, -width:])
        return out


@pytest.mark.parametrize("name", METHODS)
def test_trained_here_it_says_the_same_in_peft(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str
) -> None:
    case, options = METHODS[name]
    check_in_peft(CASES[case], model_folder, ragged, options, tmp_path)


def test_a_prompt_that_a_network_makes(
    model_folder: Folders, ragged: Ragged, tmp_path: Path
) -> None:
    case, options = REPARAMETRISED
    check_in_peft(CASES[case], model_folder, ragged, options, tmp_path)


def _batch(examples: TextExamples, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    texts = [torch.from_numpy(examples.ids(int(i)).astype(np.int64)) for i in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    ones = [torch.ones_like(text) for text in texts]
    return {"input_ids": pad(texts, True), "attention_mask": pad(ones, True)}


@pytest.mark.parametrize("name", ["vera", "dora"])
def test_one_client_equals_a_plain_loop(model_folder: Folders, ragged: Ragged, name: str) -> None:
    import peft
    import transformers

    case, options = CASES[METHODS[name][0]], METHODS[name][1]
    examples = case.examples(ragged)
    assert isinstance(examples, TextExamples)
    assert examples.labels is not None
    model = built(case, model_folder, options)
    result, params = trained(model, examples)
    start = model.initial(3)

    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        case.folder(model_folder), num_labels=3
    )
    kinds = peft.PEFT_TYPE_TO_CONFIG_MAPPING
    own = {key: value for key, value in options.items() if key != "method"}
    own["target_modules"] = ["query", "value"]  # type: ignore[assignment]
    method = str(options["method"]).upper()
    wrapped = peft.get_peft_model(base, kinds[method](task_type="SEQ_CLS", **own)).eval()
    state = {
        f"base_model.model.{key}": torch.from_numpy(value.copy())
        for key, value in start.layout.unflatten(start.vector).items()
    }
    fixed = peft.get_peft_model_state_dict(wrapped)
    peft.set_peft_model_state_dict(wrapped, {**fixed, **state})
    leaves = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(leaves, lr=WORK.lr, momentum=WORK.momentum)
    for rows in local_batches(cohort()[0], WORK):
        optimizer.zero_grad()
        labels = torch.from_numpy(examples.labels[rows])
        wrapped(**_batch(examples, rows), labels=labels).loss.backward()
        optimizer.step()
    end = peft.get_peft_model_state_dict(wrapped)
    want = start.layout.flatten(
        {n: end[f"base_model.model.{n}"].numpy() for n in start.layout.names}
    )
    delta = want - start.vector
    assert np.linalg.norm(result.delta - delta) < 1e-5 * np.linalg.norm(delta)
    assert np.linalg.norm(params.vector - want) < 1e-5 * np.linalg.norm(want)


def test_lora_through_peft_equals_lora_with_a_batched_form(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert"]
    examples = case.examples(ragged)
    batched = case.build(model_folder, Component("lora", {"rank": 4}))
    bridged = built(case, model_folder, {"method": "LORA", "r": 4, "lora_alpha": 8})
    assert bridged.layout.names == batched.layout.names
    assert [s.shape for s in bridged.layout] == [s.shape for s in batched.layout]
    assert [s.block for s in bridged.layout] == [s.block for s in batched.layout]
    params = batched.initial(3)
    same = Params(bridged.layout, params.vector)
    found = Backprop().train(bridged.session(same, ("*",), examples), same, WORK, cohort()[:1])
    want = Backprop().train(batched.session(params, ("*",), examples), params, WORK, cohort()[:1])
    difference = np.linalg.norm(found[0].delta - want[0].delta)
    assert difference < 1e-5 * np.linalg.norm(want[0].delta)


def test_initial_values_depend_on_the_seed_only(model_folder: Folders) -> None:
    case, options = METHODS["loha"]
    state = torch.random.get_rng_state()
    first = built(CASES[case], model_folder, options)
    torch.manual_seed(123)
    second = built(CASES[case], model_folder, options)
    assert np.array_equal(first.initial(5).vector, second.initial(5).vector)
    assert not np.array_equal(first.initial(5).vector, first.initial(6).vector)
    torch.random.set_rng_state(state)
    first.initial(5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tags_and_blocks(model_folder: Folders) -> None:
    case, options = METHODS["vera"]
    layout = built(CASES[case], model_folder, options).layout
    assert layout.select(("head",)).names == ("classifier.weight", "classifier.bias")
    assert {s.block for s in layout.select(("peft",))} == {"layer.0", "layer.1", "layer.2"}
    assert "bert.encoder.layer.0.attention.self.query.vera_lambda_b" in layout


def test_the_head_alone_and_the_method_alone(model_folder: Folders, ragged: Ragged) -> None:
    for name in ("dora", "loha"):  # PEFT's head, and ours
        case, options = METHODS[name]
        model, examples = (
            built(CASES[case], model_folder, options),
            CASES[case].examples(ragged),
        )
        for train in (("head",), ("peft",)):
            result, _ = trained(model, examples, train)
            assert result.layout == model.layout.select(train)
            assert result.delta.any() or (name, train) == ("loha", ("peft",))


def test_threads_do_not_disturb_each_other(model_folder: Folders, ragged: Ragged) -> None:
    case, options = METHODS["dora"]
    model, examples = built(CASES[case], model_folder, options), CASES[case].examples(ragged)
    params = model.initial(3)
    session = model.session(params, ("*",), examples)

    def one(i: int) -> LocalResult:
        return Backprop().train(session, params, WORK, [cohort()[i]])[0]

    alone = [one(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(one, range(4)))
    for mine, other in zip(alone, together, strict=True):
        assert np.array_equal(mine.delta, other.delta)


def test_one_client_at_a_time(model_folder: Folders, ragged: Ragged) -> None:
    case, options = METHODS["vera"]
    model, examples = built(CASES[case], model_folder, options), CASES[case].examples(ragged)
    assert not model.batched
    assert model.note == ("peft method VERA has no batched form: clients are trained one by one")
    params = model.initial(0)
    with pytest.raises(ModelError, match="2 clients at once; peft method VERA has no batched form"):
        model.session(params, ("*",), examples).store(params, 2)


def test_the_backbone_stays_as_it_is(model_folder: Folders, ragged: Ragged) -> None:
    case, options = METHODS["dora"]
    model = built(CASES[case], model_folder, options)
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    trained(model, CASES[case].examples(ragged))
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("bert", {"method": "VERRA"}, r"method = 'VERRA': known: ADALORA, .*did you mean 'VERA'"),
        ("bert", {"method": "LOHA", "rank": 4}, r"'LOHA': unknown option 'rank'; known: alpha, "),
        ("bert", {"method": "LOHA", "task_type": "SEQ_CLS"}, r"unknown option 'task_type'"),
        ("bert", {"method": "LORA", "r": 0}, r"'LORA': `r` should be a positive integer"),
        ("bert", {"method": "LORA", "target_modules": ("qury",)}, r"'LORA': No modules were"),
        ("bert", {"method": "POLY"}, r"'POLY': it needs more than a batch of examples"),
        ("bert", {"method": "PROMPT_TUNING", "num_virtual_tokens": 4}, r"pooling = 'mean'"),
        ("vit", {"method": "PROMPT_TUNING", "num_virtual_tokens": 4}, r"before the text"),
        ("bert-mean", {"method": "PREFIX_TUNING", "num_virtual_tokens": 4}, r"only language"),
        ("qwen2-lm", {"method": "CPT"}, r"not supported; of methods with prompts, PROMPT_TUNING"),
        (
            "llama",
            {"method": "TRAINABLE_TOKENS", "token_indices": (5,)},
            r"PEFT trains no head with it",
        ),
    ],
)
def test_what_cannot_be_trained(
    model_folder: Folders, case: str, options: dict[str, Option], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(CASES[case], model_folder, options)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="transformers cannot load it"):
        build_model(
            tmp_path,
            Component("peft", {"method": "VERA"}),
            Task("classify", 3, "mean"),
            dtype=torch.float32,
            device=CPU,
        )
