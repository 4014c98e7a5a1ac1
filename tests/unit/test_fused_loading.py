"""Loading without transformers, and what is wrong with a folder said in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fused_models import CPU, fused, reference, tokens
from safetensors.torch import load_file, save_file

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.backbones.fused import load_fused
from fedloom.backbones.packing import pack, pack_images
from fedloom.backbones.precision import best_dtype
from fedloom.core.errors import DataError, ModelError


def load(folder: Path) -> object:
    return load_fused(folder, dtype=torch.float32, device=CPU)


def test_neither_transformers_nor_peft_is_imported(tmp_path: Path) -> None:
    fused(reference("bert"), tmp_path)
    code = (
        "import sys, torch, pathlib\n"
        "from fedloom.backbones.fused import load_fused\n"
        f"load_fused(pathlib.Path({str(tmp_path)!r}), dtype=torch.float32,"
        " device=torch.device('cpu'))\n"
        "print(sorted({'transformers', 'peft'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_configuration_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="expected a JSON object, got list"):
        load(tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        load(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    fused(reference("bert"), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot read"):
        load(tmp_path)


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    fused(reference("bert"), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "encoder.layer.1.output.dense.weight"
    save_file({n: t for n, t in tensors.items() if n != name}, path)
    with pytest.raises(ModelError, match=f"no tensor '{name}'"):
        load(tmp_path)
    save_file({**tensors, name: torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match=rf"'{name}': expected \(32, 48\).*got \(2, 2\)"):
        load(tmp_path)


def test_examples_longer_than_the_model_reads(tmp_path: Path) -> None:
    backbone = fused(reference("bert"), tmp_path)
    packing = pack([[np.ones(33, np.int32)]], read=None)
    with pytest.raises(DataError, match="33 tokens; this backbone reads at most 32"):
        backbone.embed(packing)


def test_text_and_images_are_not_mixed_up(tmp_path: Path) -> None:
    text = fused(reference("bert"), tmp_path / "text")
    images = fused(reference("vit"), tmp_path / "images")
    packing = pack_images(1, 1, 10)
    with pytest.raises(DataError, match="no token ids"):
        text.embed(packing)
    with pytest.raises(DataError, match="use embed_images"):
        images.embed(pack(tokens(((3,),)), read=None))
    with pytest.raises(DataError, match="this backbone reads text"):
        text.embed_images(torch.zeros(1, 1, 3, 12, 12), packing)
    with pytest.raises(DataError, match=r"\(3, 8, 8\); this backbone reads \(3, 12, 12\)"):
        images.embed_images(torch.zeros(1, 1, 3, 8, 8), packing)
    with pytest.raises(DataError, match=r"images of \(1, 2\); packed are \(1, 1\)"):
        images.embed_images(torch.zeros(1, 2, 3, 12, 12), packing)


def test_what_a_family_lacks(tmp_path: Path) -> None:
    bert, llama = (
        fused(reference("bert"), tmp_path / "b"),
        fused(reference("llama"), tmp_path / "l"),
    )
    packing = pack(tokens(((3,),)), read=None)
    with pytest.raises(ModelError, match="trim needs a packing with read"):
        bert.run(bert.embed(packing), packing, trim=True)
    with pytest.raises(ModelError, match="no language-model head"):
        bert.token_logits(torch.zeros(1, 32))
    with pytest.raises(ModelError, match="no pooler"):
        llama.pool_first(torch.zeros(1, 32))
    with pytest.raises(ModelError, match="no language-model head"):  # untied, and not saved
        llama.token_logits(torch.zeros(1, 32))


def test_flops_of_one_token(tmp_path: Path) -> None:
    """Weights of a block: qkv 3*32*32, out 32*32, up and down 2*32*48; two blocks.

    Forward 2 * 2 * 7168; backward of both, without the qkv product of the first trained block.
    """
    backbone = fused(reference("bert"), tmp_path)
    assert backbone.flops_per_token(0) == 2 * (2 * 7168 + 2 * 7168 - 3072)
    assert backbone.flops_per_token(1) == 2 * (2 * 7168 + 7168 - 3072)
    assert backbone.flops_per_token(2) == 2 * 2 * 7168


def test_saved_bytes_of_one_token(tmp_path: Path) -> None:
    """3 norms or inputs of 32, q, k and v of 32, inner 48, 4 heads of 16 keys; four bytes each."""
    backbone = fused(reference("bert"), tmp_path)
    assert backbone.saved_bytes_per_token(16) == 4 * (3 * 32 + 3 * 32 + 48 + 4 * 16)


def test_best_dtype_is_one_of_two() -> None:
    assert best_dtype(CPU) in (torch.float32, torch.bfloat16)


def test_allocator_is_set_once_more_without_harm() -> None:
    assert keep_large_blocks() == keep_large_blocks()
