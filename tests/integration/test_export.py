"""An exported adapter says in peft what it says here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Case, Folders, Ragged, start
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fedloom.core.component import Option
from fedloom.core.errors import RunError
from fedloom.core.registry import Component
from fedloom.core.types import Params
from fedloom.tuning.base import CohortModel, Task
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.export import export_adapter, load_adapter
from fedloom.tuning.peft_format import arguments_of, auto_of

# What peft and transformers use of each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

MEAN_IMAGES = Case("vit", "AutoModel", Task("classify-image", 3, "mean"))


def in_peft(case: Case, folders: Folders, adapter: Path) -> Callable[..., Any]:
    """The adapter as a user of peft loads it, by the lines in the folder's README."""
    import peft
    import transformers

    options = {"num_labels": 3} if arguments_of(case.task) else {}
    auto = getattr(transformers, auto_of(case.task))
    base = auto.from_pretrained(case.folder(folders), **options)
    loaded: Callable[..., Any] = peft.PeftModel.from_pretrained(base, adapter).eval()
    return loaded


def ids_of(examples: TextExamples, row: int) -> torch.Tensor:
    return torch.from_numpy(examples.ids(row).astype(np.int64))[None]


def losses_in_peft(
    model: Callable[..., Any], case: Case, examples: Examples, adapter: Path
) -> NDArray[np.float32]:
    """The loss of each example alone, mean over what it predicts."""
    found = []
    for row in range(len(examples)):
        with torch.no_grad():
            logits, target = _logits(model, case, examples, row, adapter)
            found.append(float(torch.nn.functional.cross_entropy(logits, target)))
    return np.array(found, dtype=np.float32)


def _logits(
    model: Callable[..., Any], case: Case, examples: Examples, row: int, adapter: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(examples, ImageExamples):
        out = model(pixel_values=torch.from_numpy(examples.floats(np.array([row]))))
    else:
        assert isinstance(examples, TextExamples)
        ids = ids_of(examples, row)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if case.task.kind == "causal-lm":
            first = max(examples.prompt_length(row), 1)
            return out.logits[0, first - 1 : -1], ids[0, first:]
    assert examples.labels is not None
    target = torch.from_numpy(examples.labels[row : row + 1])
    if auto_of(case.task) != "AutoModel":
        return out.logits, target
    head = load_file(adapter / "fedloom.safetensors")
    weight, bias = (torch.from_numpy(head[f"classifier.{f}"]) for f in ("weight", "bias"))
    pooled = out.last_hidden_state.mean(1)
    if case.task.normalize:
        pooled = torch.nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
    return pooled @ weight.T + bias, target


def exported(
    case: Case, folders: Folders, adapter: str | Component, folder: Path
) -> tuple[CohortModel, Params]:
    model = case.build(folders, adapter)
    params = start(model)
    assert export_adapter(model, params, folder) == folder
    return model, params


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
@pytest.mark.parametrize("name", [*CASES, "vit-mean"])
def test_peft_gives_the_same_losses(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, adapter: str
) -> None:
    case = MEAN_IMAGES if name == "vit-mean" else CASES[name]
    examples = case.examples(ragged).take(np.arange(0, 40, 5))
    model, params = exported(case, model_folder, adapter, tmp_path)
    here = evaluate(model.session(params, (), examples), params, examples).loss
    there = losses_in_peft(in_peft(case, model_folder, tmp_path), case, examples, tmp_path)
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)
    without = model.initial(3)
    before = evaluate(model.session(without, (), examples), without, examples).loss
    assert np.abs(before - here).max() > 1e-3  # the adapter matters


def test_options_of_lora_reach_peft(model_folder: Folders, ragged: Ragged, tmp_path: Path) -> None:
    case = CASES["bert"]
    options: dict[str, Option] = {
        "rank": 3,
        "alpha": 5.0,
        "rslora": True,
        "layers": (-1,),
        "targets": ("all-linear",),
    }
    examples = case.examples(ragged).take(np.arange(6))
    model, params = exported(case, model_folder, Component("lora", options), tmp_path)
    here = evaluate(model.session(params, (), examples), params, examples).loss
    there = losses_in_peft(in_peft(case, model_folder, tmp_path), case, examples, tmp_path)
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 5.0])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
def test_layers_of_a_rank_of_their_own_reach_peft(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, alpha: float
) -> None:
    case = CASES[name]
    options: dict[str, Option] = {"rank": 4, "alpha": alpha, "ranks": ((0, 2), (1, 1))}
    examples = case.examples(ragged).take(np.arange(6))
    model, params = exported(case, model_folder, Component("lora", options), tmp_path)
    assert len({spec.shape[0] for spec in model.layout if "A" in spec.tags}) > 1
    here = evaluate(model.session(params, (), examples), params, examples).loss
    there = losses_in_peft(in_peft(case, model_folder, tmp_path), case, examples, tmp_path)
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_both_engines_write_the_same_files(model_folder: Folders, tmp_path: Path) -> None:
    case = CASES["llama"]
    for engine in ("fused", "transformers"):
        model = case.build(model_folder, "lora", engine=engine)
        export_adapter(model, start(model), tmp_path / engine, classes=("a", "b", "c"))
    for name in ("adapter_config.json", "fedloom.safetensors", "adapter_model.safetensors"):
        fused, generic = ((tmp_path / e / name).read_bytes() for e in ("fused", "transformers"))
        assert fused == generic


def test_a_backbones_head_is_among_the_modules_to_save(
    model_folder: Folders, tmp_path: Path
) -> None:
    exported(CASES["llama"], model_folder, "lora", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    assert config["task_type"] == "SEQ_CLS"
    assert "base_model.model.score.weight" in load_file(tmp_path / "adapter_model.safetensors")


def test_a_head_of_ours_is_in_our_file_only(model_folder: Folders, tmp_path: Path) -> None:
    model, _ = exported(CASES["bert-mean"], model_folder, "lora", tmp_path)
    names = {name.removeprefix("base_model.model.") for name in model.layout.names}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name.removeprefix("base_model.model.") for name in saved}
    assert names - kept == {"classifier.weight", "classifier.bias"}
    assert set(load_file(tmp_path / "fedloom.safetensors")) == names


@pytest.mark.parametrize("adapter", ["bitfit", "bottleneck"])
def test_a_method_that_peft_lacks_is_in_our_file_only(
    model_folder: Folders, tmp_path: Path, adapter: str
) -> None:
    model, params = exported(CASES["bert"], model_folder, adapter, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "fedloom.safetensors"}
    assert "PeftModel" not in (tmp_path / "README.md").read_text()
    loaded, _ = load_adapter(tmp_path)
    assert np.array_equal(loaded.vector, params.vector)
    assert loaded.layout.names == model.layout.names


def test_a_round_trip_keeps_everything(model_folder: Folders, tmp_path: Path) -> None:
    model = CASES["bert"].build(model_folder, "lora")
    params = start(model)
    folder = export_adapter(model, params, tmp_path / "a" / "b", classes=("no", "yes", "später"))
    loaded, classes = load_adapter(folder)
    assert classes == ("no", "yes", "später")
    assert loaded.layout == model.layout
    assert np.array_equal(loaded.vector, params.vector)
    readme = (folder / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained(BACKBONE, num_labels=3)" in readme
    assert "Classes: no, yes, später" in readme


def test_a_folder_that_cannot_be_written(model_folder: Folders, tmp_path: Path) -> None:
    model = CASES["bert"].build(model_folder, "lora")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        export_adapter(model, model.initial(0), tmp_path / "file")


def spoil_nothing_there(path: Path) -> None:
    path.unlink()


def spoil_not_safetensors(path: Path) -> None:
    path.write_text("hello")


def spoil_another_file(path: Path) -> None:
    save_file({"x": np.zeros(2, dtype=np.float32)}, path)


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def spoil_json(path: Path) -> None:
    save_file({"x": np.zeros(2, dtype=np.float32)}, path, metadata={"fedloom": "{"})


def spoil_fields(path: Path) -> None:
    save_file({"x": np.zeros(2, dtype=np.float32)}, path, metadata={"fedloom": "{}"})


def spoil_missing_tensor(path: Path) -> None:
    facts = json.dumps({"tensors": [["y", "", []]], "classes": []})
    save_file({"x": np.zeros(2, dtype=np.float32)}, path, metadata={"fedloom": facts})


def spoil_shape_of_facts(path: Path) -> None:
    facts = json.dumps({"tensors": [["x"]], "classes": []})
    save_file({"x": np.zeros(2, dtype=np.float32)}, path, metadata={"fedloom": facts})


def spoil_list(path: Path) -> None:
    save_file({"x": np.zeros(2, dtype=np.float32)}, path, metadata={"fedloom": "[1]"})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_there,
        spoil_not_safetensors,
        spoil_another_file,
        spoil_cut,
        spoil_json,
        spoil_fields,
        spoil_missing_tensor,
        spoil_shape_of_facts,
        spoil_list,
    ],
)
def test_what_is_not_an_adapter_of_ours(
    model_folder: Folders, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    exported(CASES["bert"], model_folder, "ia3", tmp_path)
    spoil(tmp_path / "fedloom.safetensors")
    with pytest.raises(RunError, match=r"fedloom\.safetensors: not an adapter of fedloom"):
        load_adapter(tmp_path)
