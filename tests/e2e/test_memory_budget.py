"""Real training in processes of their own, which stay within what they may take."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.quantize import quantize

LENGTH = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of six layers whose activations outweigh it: 2 MB of weights, 1 MB for a text."""
    import torch
    import transformers
    from conftest import word_pieces

    made = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=512,
        vocab_size=120,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(made)
    word_pieces().save(str(made / "tokenizer.json"))
    return made


def client(
    folder: Path, scratch: Path, memory: str, *more: str, engine: str = "torch"
) -> dict[str, Any]:
    script = Path(__file__).parent / "budget_client.py"
    where = [engine, str(folder), memory, str(scratch), str(LENGTH), *more]
    command = [sys.executable, str(script), *where]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(found: dict[str, Any]) -> tuple[int, int]:
    """What a client says that it takes, in MB: before it trains, and at most."""
    line = next(line for line in found["log"] if line.startswith("memory: "))
    parts = re.search(r"may be taken, ([\d,]+) MB are; .*?: ([\d,]+) MB at most", line)
    assert parts is not None, line
    return int(parts[1].replace(",", "")), int(parts[2].replace(",", ""))


LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory as Linux counts"
)


@LINUX
def test_a_budget_is_kept(folder: Path, tmp_path: Path) -> None:
    """With less and less memory: whole batches, parts of them, and none that would do."""
    roomy = client(folder, tmp_path, "4GB")
    base, most = told(roomy)
    assert "whole batches: " in " ".join(roomy["log"])
    assert roomy["peak"] <= most * 1e6
    middle = (2 * base + 3 * most) // 5
    tight = client(folder, tmp_path, f"{middle}MB")
    assert f"memory: {middle:,} MB may be taken" in " ".join(tight["log"])
    assert re.search(r"in \d+ parts of \d+ example", " ".join(tight["log"]))
    assert tight["peak"] <= middle * 1e6 < roomy["peak"]
    none = client(folder, tmp_path, f"{base}MB")
    smallest = re.search(r"the smallest that would do is ([\d,]+) MB", none["error"])
    assert smallest is not None
    least = int(smallest[1].replace(",", "")) + 1  # rounded for people
    just = client(folder, tmp_path, f"{least}MB")
    assert not just["error"]
    assert just["peak"] <= least * 1e6
    assert "blocks run again on the way back" in " ".join(just["log"])


@LINUX
def test_memory_that_runs_out_in_mid_round(folder: Path, tmp_path: Path) -> None:
    """The owner says 4 GB, but the system gives less: smaller ways are tried, and one does."""
    found = client(folder, tmp_path, "4GB", "170")
    assert not found["error"]
    again = [line for line in found["log"] if line.startswith("out of memory (")]
    assert again, found["log"]
    assert " parts of " in again[-1]


@LINUX
def test_memory_that_runs_out_in_the_smallest_way(folder: Path, tmp_path: Path) -> None:
    """The task is given back, and the process lives on to say so."""
    found = client(folder, tmp_path, "4GB", "2")
    assert found["error"].startswith("out of memory in the smallest way there is: ")


@LINUX
def test_a_budget_is_kept_without_torch(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    quantize(folder, tmp_path / "small", SCHEMES["int4-32"])
    folder = tmp_path / "small"
    roomy = client(folder, tmp_path, "2GB", engine="onnx")
    base, most = told(roomy)
    assert "batches in 8 parts of 2 examples at most: " in " ".join(roomy["log"])
    assert roomy["peak"] <= most * 1e6
    assert not roomy["torch"]
    none = client(folder, tmp_path, f"{base}MB", engine="onnx")
    smallest = re.search(r"the smallest that would do is ([\d,]+) MB", none["error"])
    assert smallest is not None
    least = int(smallest[1].replace(",", "")) + 1  # rounded for people
    assert least < most
    just = client(folder, tmp_path, f"{least}MB", engine="onnx")
    assert not just["error"]
    assert just["peak"] <= least * 1e6
    assert "batches in 16 parts of 1 example at most: " in " ".join(just["log"])
