"""The forward pass of one shape, and its graph, say what a cohort of the same model says."""

import os
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from cohorts import CASES, CPU, Case, Folders
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.formats import scheme_of
from fedloom.backbones.kernels.traceable import TRACEABLE
from fedloom.backbones.quantize import quantize
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.tuning.base import Scoring, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.forward_program import ForwardProgram, Size

SIZE = Size(perturbations=3, batch=4, length=9)
NIGHTLY = pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="seconds each: nightly")
LAST = Case("bert", "AutoModel", Task("classify", 3, "last"))


def program_of(folder: Path, task: Task, adapter: str, size: Size = SIZE) -> ForwardProgram:
    model = build_model(
        folder, Component(adapter), task, dtype=torch.float32, device=CPU, kernel=TRACEABLE
    )
    return ForwardProgram(model, size)


def examples_of(program: ForwardProgram, inputs: dict[str, Tensor]) -> Examples:
    """The texts of a batch, without their padding."""
    lengths = inputs["lengths"].numpy()
    texts = [row[:n] for row, n in zip(inputs["ids"].numpy(), lengths, strict=True)]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    labels = np.zeros(len(texts), dtype=np.int64)
    if program.model.task.kind == "causal-lm":
        prompts = np.zeros(len(texts), dtype=np.int32)
        return TextExamples(np.concatenate(texts).astype(np.int32), offsets, None, prompts)
    return TextExamples(np.concatenate(texts).astype(np.int32), offsets, labels)


def by_cohort(program: ForwardProgram, inputs: dict[str, Tensor], examples: Examples) -> Tensor:
    """Logits ``[P, B, C]`` (of a language model the losses of next words) of P clients."""
    model, p = program.model, program.size.perturbations
    params = model.initial(0)
    session = cast(Scoring, model.session(params, ("*",), examples))
    store, rows = session.store(params, p), [np.arange(len(examples))] * p
    for spec in model.layout:
        store.values[:, model.layout.span(spec.name)] = inputs[spec.name].flatten(1)
    with torch.no_grad():
        if model.task.kind == "causal-lm":
            return session.losses(store, rows).each
        return session.logits(store, rows).view(p, len(examples), -1)


def losses_of(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Losses of next words, client by client, example by example."""
    found = []
    for own in logits:
        for row, ids, length in zip(own, inputs["ids"], inputs["lengths"].tolist(), strict=True):
            found.append(
                functional.cross_entropy(row[: length - 1], ids[1:length], reduction="none")
            )
    return torch.cat(found)


def check(program: ForwardProgram) -> None:
    inputs = dict(program.inputs)
    if program.images:
        pixels = np.random.default_rng(1).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8)
        images = ImageExamples(pixels, np.zeros(4, dtype=np.int64))
        inputs["pixels"] = torch.from_numpy(images.floats(np.arange(4)))
        examples: Examples = images
    else:  # other lengths than the graph is made with; one is full
        inputs["lengths"] = torch.tensor([9, 2, 5, 3])
        examples = examples_of(program, inputs)
    expected, found = by_cohort(program, inputs, examples), program.run(inputs)
    traced = program.traced()(*inputs.values())
    torch.testing.assert_close(traced, found, rtol=1e-5, atol=1e-5)
    if program.model.task.kind == "causal-lm":
        found = losses_of(found, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((found.view(3, -1)[0] - found.view(3, -1)[1]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        *("bert", "qwen2-lm", "vit"),
        *(pytest.param(name, marks=NIGHTLY) for name in ("llama", "gpt2", "gpt2-lm")),
    ],
)
def test_each_family(model_folder: Folders, name: str) -> None:
    check(program_of(CASES[name].folder(model_folder), CASES[name].task, "lora"))


@pytest.mark.parametrize("adapter", ["ia3", "bitfit", "bottleneck", "prefix", "head"])
def test_each_adapter(model_folder: Folders, adapter: str) -> None:
    case = CASES["bert-mean"]
    check(program_of(case.folder(model_folder), case.task, adapter))


def test_a_head_alone_on_one_token(model_folder: Folders) -> None:
    """Nothing below the head depends on the adapter: the blocks run once."""
    program = program_of(CASES["bert"].folder(model_folder), CASES["bert"].task, "head")
    check(program)


def test_the_last_token_is_read(model_folder: Folders) -> None:
    check(program_of(LAST.folder(model_folder), LAST.task, "lora"))


@pytest.mark.parametrize("scheme", ["int8", "uint4-32"])
def test_stored_backbones_stay_as_they_are(
    model_folder: Folders, tmp_path: Path, scheme: str
) -> None:
    case = CASES["bert-mean"]
    quantize(case.folder(model_folder), tmp_path / "stored", scheme_of(scheme))
    program = program_of(tmp_path / "stored", case.task, "lora")
    check(program)
    graph = program.traced()
    kinds = {str(tensor.dtype) for tensor in graph.buffers()}
    kinds |= {str(t.dtype) for t in vars(graph).values() if isinstance(t, Tensor)}
    assert ("torch.int8" if scheme == "int8" else "torch.uint8") in kinds
    targets = {str(node.target) for node in graph.graph.nodes}
    assert not targets & {"aten.__rshift__.Scalar", "mkldnn._linear_pointwise.default"}


def test_what_cannot_be_traced(model_folder: Folders) -> None:
    case = CASES["bert-mean"]
    with pytest.raises(ConfigError, match="length = 65: at most 64"):
        program_of(case.folder(model_folder), case.task, "lora", Size(1, 1, 65))
    with pytest.raises(ConfigError, match="perturbations = 0: 1 or more"):
        Size(0, 1, 8)
    with pytest.raises(ConfigError, match="which operations this adapter needs depends"):
        program_of(case.folder(model_folder), case.task, "full").traced()
    swapped = case.build(model_folder, "lora", engine="transformers")
    with pytest.raises(ConfigError, match="families with fused blocks can be traced"):
        ForwardProgram(swapped, SIZE)
