"""GGUF files whose blocks are kept: the very numbers that their own reader makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedloom.backbones.checkpoint import open_checkpoint, read_config
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.fused import load_fused
from fedloom.backbones.gguf_blocks import keep_blocks, packed_of
from fedloom.backbones.gguf_checkpoint import NAMES
from fedloom.backbones.notes import scheme_in
from fedloom.backbones.quantize import Rounded
from fedloom.cli import main
from fedloom.core.errors import ModelError

gguf = pytest.importorskip("gguf")

WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 64, 4, 2, 96, 7
SHAPES = {
    "token_embd": (VOCABULARY, WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.attn_q": (WIDTH, WIDTH),
    "blk.0.attn_k": (WIDTH // 2, WIDTH),
    "blk.0.attn_v": (WIDTH // 2, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH),
    "blk.0.ffn_norm": (WIDTH,),
    "blk.0.ffn_gate": (INNER, WIDTH),
    "blk.0.ffn_up": (INNER, WIDTH),
    "blk.0.ffn_down": (WIDTH, INNER),
}


def blocks(shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Blocks of random bytes, whose scales are finite."""
    rng = np.random.default_rng(len(shape) + sum(shape))
    bits, floats = (8, 1) if kind == "Q8_0" else (4, 1 + (kind == "Q4_1"))
    count = shape[1] // 32
    codes = rng.integers(0, 256, (shape[0], count, 4 * bits)).astype(np.uint8)
    scales = rng.normal(size=(shape[0], count, floats)).astype(np.float16).view(np.uint8)
    return np.concatenate((scales, codes), -1).reshape(shape[0], -1)


def write(path: Path, kind: str, *, other: str = "") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<end>", "a", "b", "1", "2", "12", "ab"])
    writer.add_token_types([3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["1 2", "a b"])
    for add in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{add}_token_id")(0)
    writer.add_chat_template("{{ messages }}")
    for name, shape in SHAPES.items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.linspace(0.5, 1.5, WIDTH, dtype=np.float32))
            continue
        own = other if other and name == "blk.0.ffn_up" else kind
        plain = {"F32": np.float32, "I32": np.int32}.get(own)
        data = blocks(shape, own) if plain is None else np.ones(shape, plain)
        dtype = gguf.GGMLQuantizationType[own] if plain is None else None
        writer.add_tensor(f"{name}.weight", data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_every_number_is_the_files(kind: str) -> None:
    rows = blocks((5, 96), kind)
    expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
    whole = packed_of(rows, SCHEMES[kind.lower()]).whole()
    found = whole.numpy()
    assert np.array_equal(found.view(np.int32), np.asarray(expected).view(np.int32))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_folder_has_the_files_bits(kind: str, tmp_path: Path) -> None:
    told: list[Rounded] = []
    file = write(tmp_path / "m.gguf", kind)
    folder = keep_blocks(file, tmp_path / "out", lambda rounded, *_: told.append(rounded))
    assert scheme_in(folder) == SCHEMES[kind.lower()]
    assert {each.error for each in told} == {0.0}
    source = open_checkpoint(folder, torch.device("cpu"))
    matrices = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}
    assert len(source.stored) == len(told) == len(matrices)
    for name, shape in matrices.items():
        *block, part = name.split(".")
        ours = f"model.layers.0.{NAMES[part]}" if block else NAMES[part]
        dense = gguf.quants.dequantize(blocks(shape, kind), gguf.GGMLQuantizationType[kind])
        expected = torch.from_numpy(np.array(dense))
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part)
        if heads:  # row 2 i + j of a head becomes row i + j d / 2
            pairs = expected.view(heads, -1, 2, WIDTH)
            expected = torch.cat((pairs[:, :, 0], pairs[:, :, 1]), 1).reshape(shape)
        assert torch.equal(source.get([f"{ours}.weight"]), expected)
    assert source.get(["model.norm.weight"]).dtype == torch.float32
    backbone = load_fused(folder, dtype=torch.float32, device=torch.device("cpu"))
    (layer,) = backbone.layers
    assert not isinstance(layer.mlp.up.weight, torch.Tensor)
    assert read_config(folder)["tie_word_embeddings"] is True
    sizes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sizes < 1.5 * file.stat().st_size  # headers are most of a model so small


def test_the_command_takes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path / "m.gguf", "Q4_1"))
    assert main(["quantize", file, str(tmp_path / "out"), "--bits", "4"]) == 2
    assert "--bits: blocks of a GGUF file are kept as they are" in capsys.readouterr().err
    assert main(["quantize", file, str(tmp_path / "out")]) == 0
    assert "q4_1      error   0.00 %" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_model_in_the_format_of_blocks(
    text_model: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["quantize", str(text_model["classify"]), str(tmp_path / "out"), "--format", "q4_1"]
    assert main([*asked, "--bits", "4"]) == 2
    assert "--format says all of it" in capsys.readouterr().err
    assert main(asked) == 0
    assert scheme_in(tmp_path / "out") == SCHEMES["q4_1"]


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", "F32")
    with pytest.raises(ModelError, match="no tensor in blocks of Q8_0, Q4_0, Q4_1"):
        keep_blocks(file, tmp_path / "out")
    file = write(tmp_path / "i.gguf", "Q4_0", other="I32")
    with pytest.raises(
        ModelError, match=r"tensor 'blk\.0\.ffn_up\.weight' in I32; blocks are kept"
    ):
        keep_blocks(file, tmp_path / "out")
    (tmp_path / "bad.gguf").write_bytes(b"GGUX" + bytes(40))
    with pytest.raises(ModelError, match=r"bad\.gguf: not a GGUF file that can be read"):
        keep_blocks(tmp_path / "bad.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
