"""What a client of a split model needs, counted by hand for tiny models."""

import pytest
import torch
from cohorts import CASES, Folders
from splits import fused

from fedloom.backbones.weights import weight_bytes
from fedloom.core.cuts import MIB, CutTable, Need
from fedloom.core.job import BackboneConfig, Job, Stage
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork
from fedloom.core.work import Tier
from fedloom.tuning.cut import Cut
from fedloom.tuning.cut_needs import cut_table, told

# BERT, 32 wide: 120 words and 64 positions with a norm; four products of 32 x 32, two of 32 x 64,
# their biases and two norms in a block; a pooler.
EMBEDDINGS = 120 * 32 + 64 * 32 + 2 * 32
BLOCK = 4 * (32 * 32 + 32) + (64 * 32 + 64) + (32 * 64 + 32) + 4 * 32
POOLER = 32 * 32 + 32
# LoRA of rank 4 on queries and values; three classes.
TRAINED, HEAD = 2 * (4 * 32 + 32 * 4), 3 * 32 + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_some_blocks(model_folder: Folders, dtype: torch.dtype) -> None:
    backbone = fused(CASES["bert"], model_folder, dtype).backbone
    size = dtype.itemsize
    norms = 2 * (4 - size)  # norms are float32 in any case

    def of(*blocks: str) -> int:
        return weight_bytes(backbone, blocks)

    assert of() == of("final") == 0  # BERT has no final norm
    assert of("embeddings") == size * EMBEDDINGS + norms * 32
    assert of("layer.0") == size * BLOCK + 2 * norms * 32
    assert of("head") == size * POOLER
    assert of("layer.0", "layer.2", "head") == 2 * of("layer.0") + of("head")


def test_a_head_that_is_the_embedding_is_there_once(model_folder: Folders) -> None:
    backbone = fused(CASES["gpt2-lm"], model_folder, torch.float32).backbone
    assert weight_bytes(backbone, ["head"]) == 4 * 120 * 32
    both = weight_bytes(backbone, ["embeddings", "head"])
    assert both == weight_bytes(backbone, ["embeddings"]) == 4 * (120 * 32 + 64 * 32)


def test_needs_of_every_cut(model_folder: Folders) -> None:
    model = fused(CASES["bert"], model_folder, torch.float32)
    job = Job(
        backbone=BackboneConfig(max_tokens=8), split=SplitConfig("v1", bottom=0, most_bottom=1)
    )
    # Kept of a token in a block: 3 x 32 of norms and products, 3 x 32 of attention, 64 within the
    # MLP, probabilities of 4 heads over 8 tokens. Where there is a block, it works in two more.
    kept = 4 * (96 + 96 + 64 + 32)
    home = [
        Need(4 * (EMBEDDINGS + n * BLOCK + POOLER), n * TRAINED + HEAD, (n + 2) * kept)
        for n in (1, 2)
    ]
    assert cut_table(job, model, Cut(0, 2)) == CutTable(0, tuple(home), 8)
    far = [Need(4 * EMBEDDINGS, 0, 0), Need(4 * (EMBEDDINGS + BLOCK), TRAINED, 3 * kept)]
    assert cut_table(job, model, Cut(0, 3, "far")) == CutTable(0, tuple(far), 8)


def test_a_language_models_logits_count_where_its_head_is(model_folder: Folders) -> None:
    model = fused(CASES["gpt2-lm"], model_folder, torch.float32)
    job = Job(backbone=BackboneConfig(task="causal-lm", max_tokens=8), split=SplitConfig(bottom=0))
    (home,) = cut_table(job, model, Cut(0, 2)).needs
    assert (home.per_token, home.logits) == (0, 16 * 120)
    assert home.most_logits == 4 * 64 * MIB  # 64 MiB of float32 logits at a time
    (far,) = cut_table(job, model, Cut(0, 2, "far")).needs
    assert (far.per_token, far.logits) == (0, 0)


def test_images_take_as_many_tokens_as_patches(model_folder: Folders) -> None:
    model = fused(CASES["vit"], model_folder, torch.float32)
    job = Job(backbone=BackboneConfig(task="classify-image"), split=SplitConfig(bottom=0))
    assert cut_table(job, model, Cut(0, 2)).tokens == 1 + 4


def test_what_becomes_of_each_kind_of_device_is_told() -> None:
    table = CutTable(1, tuple(Need(n * MIB, 0, 0) for n in (10, 20)), 8)
    tiers = (
        Tier("watch", memory_mb=9),
        Tier("phone", memory_mb=10),
        Tier("laptop", memory_mb=99, local=LocalWork(lr=1.0)),
        Tier("fixed", memory_mb=1, bottom=2),
        Tier("any"),
    )
    stages = (Stage(), Stage("again"))
    assert list(told(Job(tiers=tiers, stages=stages), table)) == [
        "tier 'watch': split.bottom = 1 takes 10.0 MiB, more than its 9; it is asked to all the "
        "same",
        "tier 'phone': split.bottom = 1 takes 10.0 MiB of 10",
        "tier 'laptop': split.bottom = 2 takes 20.0 MiB of 99",
    ]
