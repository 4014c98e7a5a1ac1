"""What a client of a split model needs for each number of blocks that it may have."""

from collections.abc import Iterator

from fedloom.core.cuts import MIB, CutTable, Need
from fedloom.core.job import Job
from fedloom.core.work import LocalWork, Tier
from fedloom.tuning.cut import Cut
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.needs import MOST_LOGITS, WORKING, logit_bytes, weights_at

__all__ = ["cut_table", "told"]


def cut_table(job: Job, model: FusedModel, cut: Cut) -> CutTable:
    """The numbers that a planner goes by, from the model's shapes.

    Args:
        job: says how many blocks a client may have, and how long an example is.
        model: the whole model.
        cut: that of a client with the fewest blocks.
    """
    shape = model.backbone.shape
    text = job.backbone.task != "classify-image"
    tokens = job.backbone.max_tokens if text else 1 + shape.patches
    most = max(job.split.bottom, job.split.most_bottom)
    every = range(job.split.bottom, most + 1)
    cuts = (Cut(bottom, cut.last, cut.labels) for bottom in every)
    return CutTable(job.split.bottom, tuple(_need(model, own, tokens) for own in cuts), tokens)


def _need(model: FusedModel, cut: Cut, tokens: int) -> Need:
    home = cut.home(model.depth)
    trained = sum(spec.size for spec in model.layout if spec.block in home)
    blocks = model.depth - (cut.last - cut.first)
    kept = blocks + WORKING if blocks else 0
    taken = model.backbone.saved_bytes_per_token(tokens) * kept
    words = logit_bytes(model, 1) if "head" in home else 0
    return Need(weights_at(model, home), trained, taken, words, MOST_LOGITS if words else 0)


def told(job: Job, table: CutTable) -> Iterator[str]:
    """What becomes of each kind of device whose memory is known, in a line each."""
    for tier in job.tiers:
        if not tier.memory_mb or tier.bottom is not None:
            continue
        for work in dict.fromkeys(tier.local or stage.local for stage in job.stages):
            yield _line(tier, table, work)


def _line(tier: Tier, table: CutTable, work: LocalWork) -> str:
    memory = tier.memory_mb * MIB
    bottom = table.bottom(memory, work)
    need = table.memory(bottom, work) / MIB
    text = f"tier {tier.name!r}: split.bottom = {bottom} takes {need:.1f} MiB"
    if table.holds(memory, work):
        return f"{text} of {tier.memory_mb}"
    return f"{text}, more than its {tier.memory_mb}; it is asked to all the same"
