"""Distilling an emulator, against the same training of transformers' models by autograd."""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_jobs import labelled_rows
from tokenizers import Tokenizer
from torch import Tensor

from fedloom.backbones.emulator import emulator_of, read_note
from fedloom.core.emulation import EmulatorConfig
from fedloom.core.errors import ConfigError, DataError, ModelError
from fedloom.core.job import BackboneConfig
from fedloom.core.seeds import stream
from fedloom.tuning.distill import Distiller, distilling_of, texts_of
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.prepare import folder_of

CPU = torch.device("cpu")
TEXTS = [row["text"] for row in labelled_rows(24)]
SHARED = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 120, "pad_token_id": 0}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {**SHARED, "num_key_value_heads": 2, "intermediate_size": 48, "num_hidden_layers": 6},
    "bert": {**SHARED, "intermediate_size": 64, "num_hidden_layers": 6},
}
TASKS = {"llama": "causal-lm", "bert": "classify"}
AUTO = {"llama": transformers.AutoModelForCausalLM, "bert": transformers.AutoModel}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, text_model: dict[str, Path]
) -> dict[str, Path]:
    """Models of six layers, with the tokenizer of the small ones."""
    found = {}
    for family, sizes in SIZES.items():
        folder = tmp_path_factory.mktemp(family)
        config = transformers.AutoConfig.for_model(family, initializer_range=0.2, **sizes)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            AUTO[family].from_config(config).save_pretrained(folder)
        tokens = (text_model["classify"] / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(tokens)
        found[family] = folder
    return found


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(TEXTS) + "\n\n")
    return path


def asked(models: dict[str, Path], family: str, texts: Path, **more: Any) -> BackboneConfig:
    """Two of the four layers between, in `emulator` beside the texts."""
    how = {"left": 1, "right": 1, "keep": 0.5, "distill": 3, "batch_size": 4, "lr": 0.01}
    out = str(texts.with_name("emulator"))
    emulator = EmulatorConfig(**{**how, "folder": out, "text": str(texts), **more})
    name, task = str(models[family]), TASKS[family]
    return BackboneConfig(name=name, task=task, max_tokens=16, emulator=emulator)


def silent(_: str) -> None:
    pass


def ids_of(folder: Path, rows: Sequence[int], *, causal: bool) -> list[list[int]]:
    """Ids of some texts: of an encoder cut before [SEP], of a language model after an end."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not causal:
        tokenizer.enable_truncation(16)
        return [tokenizer.encode(TEXTS[i]).ids for i in rows]
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    own = [tokenizer.encode(TEXTS[i]).ids for i in rows]
    return [(ids if ids[-1] == end else [*ids, end])[:16] for ids in own]


def batch_of(folder: Path, rows: Sequence[int], *, causal: bool) -> tuple[Tensor, Tensor]:
    """Ids of some texts, padded on the right, and where they are."""
    own = ids_of(folder, rows, causal=causal)
    longest = max(map(len, own))
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in own])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in own])
    return ids, mask


def plain_terms(whole: Any, student: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """LM and KD from transformers' hidden states: after layer 4 of six, and layer 2 of four."""
    causal = hasattr(student, "lm_head")
    with torch.no_grad():
        target = whole(ids, attention_mask=mask, output_hidden_states=True).hidden_states[5]
    out = student(ids, attention_mask=mask, output_hidden_states=True)
    real = mask.bool()
    t, e = target[real], out.hidden_states[3][real]
    kd = (((t - e) / t.square().mean().sqrt()) ** 2).mean()
    if not causal:
        return torch.zeros(()), kd
    follows = real[:, 1:]
    logits, right = out.logits[:, :-1][follows], ids[:, 1:][follows]
    return torch.nn.functional.cross_entropy(logits, right), kd


@pytest.mark.parametrize("family", SIZES)
def test_three_steps_are_those_of_plain_training(
    models: dict[str, Path], texts: Path, family: str
) -> None:
    folder, backbone = models[family], asked(models, family, texts)
    plain = emulator_of(folder, replace(backbone.emulator, distill=0, folder=str(texts) + "-0"))
    load = AUTO[family].from_pretrained
    whole, student = load(folder).eval(), load(plain).eval()
    trained = {n: p for n, p in student.named_parameters() if ".1." in n or ".2." in n}
    assert trained
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.0)
    order = stream(0, "distilling").permutation(len(TEXTS)).tolist()
    lines: list[str] = []
    out = folder_of(backbone, CPU, lines.append)
    for step in range(3):
        rows = order[4 * step : 4 * step + 4]
        lm, kd = plain_terms(whole, student, *batch_of(folder, rows, causal=family == "llama"))
        told = f"LM {float(lm.detach()):.3f}, KD" if family == "llama" else "of 3, KD"
        assert told in lines[step]
        assert float(lines[step].rpartition(" ")[2]) == pytest.approx(float(kd.detach()), abs=1e-4)
        optimizer.zero_grad()
        (1.0 * lm + 30.0 * kd).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.step()
    found, before = load_file(out / "model.safetensors"), load_file(plain / "model.safetensors")
    assert found.keys() == before.keys()
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert moved == set(trained)
    for name, parameter in trained.items():
        if name.endswith("key.bias"):  # its gradient is zero but for rounding: attention ignores it
            continue
        assert torch.allclose(found[name], parameter, atol=2e-4), name
    assert not list(out.glob("changed*"))


def test_the_loss_falls_and_so_does_the_difference(models: dict[str, Path], texts: Path) -> None:
    lines: list[str] = []
    backbone = asked(models, "bert", texts, distill=60, batch_size=24, lr=3e-3)
    out = folder_of(backbone, CPU, lines.append)
    told = [float(line.rpartition(" ")[2]) for line in lines]
    assert len(told) == 11  # every sixth step, and the last
    assert told[-1] < 0.5 * told[0]
    # what is in the folder is what was trained
    ids = ids_of(out, range(24), causal=False)
    offsets = np.cumsum([0, *map(len, ids)])
    examples = TextExamples(np.concatenate(ids).astype(np.int32), offsets)
    whole = models["bert"]
    judge = Distiller(whole, out, read_note(out), examples, task="classify", device=CPU)
    assert float(judge.terms(np.arange(24)).kd.detach()) == pytest.approx(told[-1], rel=0.05)


def test_the_same_words_make_the_same_bytes(models: dict[str, Path], texts: Path) -> None:
    def made(name: str, **more: Any) -> bytes:
        backbone = asked(models, "llama", texts, folder=f"{texts}-{name}", **more)
        return (folder_of(backbone, CPU, silent) / "model.safetensors").read_bytes()

    assert made("a") == made("b") != made("c", seed=1)


def test_an_emulator_made_otherwise_is_refused(models: dict[str, Path], texts: Path) -> None:
    backbone = asked(models, "llama", texts)
    out, lines = folder_of(backbone, CPU, silent), list[str]()
    assert folder_of(backbone, CPU, lines.append) == out
    assert not lines  # it is there: nothing is trained again
    distilled = read_note(out).distilled
    assert distilled.startswith("3 steps, causal-lm, lr 0.01, 4 texts of up to 16 tokens, seed 0")
    others = ({"distill": 4}, {"distill": 0}, {"seed": 1}, {"lr": 0.02}, {"batch_size": 5})
    for more in others:
        text = "with distilled = 3 steps, .*, where the job makes"
        with pytest.raises(ModelError, match=text):
            folder_of(asked(models, "llama", texts, **more), CPU, silent)
    texts.write_text("\n".join(TEXTS[1:]))
    with pytest.raises(ModelError, match="with distilled = "):
        folder_of(backbone, CPU, silent)


def test_texts_are_lines_or_a_column(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b" one two \n\nthree\n"))
    assert texts_of(path, "text") == ["one two", "three"]
    table = tmp_path / "a.jsonl"
    table.write_text('{"x": "one"}\n{"x": ""}\n')
    assert texts_of(table, "x") == ["one"]
    table.write_text('{"x": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: x = 3: expected a text"):
        texts_of(table, "x")
    with pytest.raises(DataError, match="no such file"):
        texts_of(tmp_path / "b.txt", "text")
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"a\.txt\.gz: cannot be read"):
        texts_of(path, "text")
    (tmp_path / "c.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"c\.txt: no texts"):
        texts_of(tmp_path / "c.txt", "text")


def test_what_cannot_be_distilled(models: dict[str, Path], texts: Path) -> None:
    image = replace(asked(models, "llama", texts), task="classify-image")
    with pytest.raises(
        ConfigError, match="distill = 3: learns on texts; the backbone reads images"
    ):
        distilling_of(image, models["llama"], CPU, silent)
    with pytest.raises(ModelError, match=r"distilling: the loss is .* at step \d"):
        folder_of(asked(models, "llama", texts, lr=1e30), CPU, silent)
    assert not texts.with_name("emulator").exists()
    texts.write_text("")
    with pytest.raises(DataError, match="no texts"):
        folder_of(asked(models, "llama", texts), CPU, silent)
